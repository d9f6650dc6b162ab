"""What pyramids, backbones, strides and detectors share."""
