"""`temwatch check-config --probe`: write a small tile, put it into render-ws and read it back."""
