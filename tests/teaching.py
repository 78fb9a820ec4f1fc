"""How detection was taught before its keys."""

from onehead_cli.tasks.detection.loss import Teaching

AS_0_1_0 = Teaching(confidence="quality", confidence_cost=0.0, ignore_iou=1.0)
