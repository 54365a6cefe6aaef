"""Feature networks of losses and metrics: VGG, AlexNet, Inception, ConvNeXt, LPIPS."""
