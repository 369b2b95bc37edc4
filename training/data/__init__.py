"""Images and their labels, without torch: digits, class folders and zips, CIFAR, event cameras."""
