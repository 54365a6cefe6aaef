"""Image networks used to compare pictures: VGG16 and AlexNet features, and LPIPS on top of them."""
