"""One small network with one head for classification, segmentation and detection."""

__version__ = "0.1.0"
