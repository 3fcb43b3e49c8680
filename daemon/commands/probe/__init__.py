"""`temwatch check-config --probe`: a small tile on its way from the disk to render-ws and back."""
