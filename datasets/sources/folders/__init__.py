"""Plain folders of images: what tables or file names tell of real and of generated images. No torch."""
