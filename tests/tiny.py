"""Options of trainings that take a second or two."""

TINY = ["--image-size", "64", "--set", "teacher.batch_size=4", "--set", "student.batch_size=2", "--quiet"]

#: The same with a small network from random weights, for tests that need no good one.
SMALL = ["--backbone", "mobilenetv3_small_050", "--no-pretrained", *TINY]
