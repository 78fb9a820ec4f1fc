/** What went wrong, in one line for the user. */
export class Problem extends Error {}
