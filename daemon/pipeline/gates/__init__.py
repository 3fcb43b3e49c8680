"""Whether work may start: the circuit breaker before render-ws, the workers, the disks and stores of mipmaps."""
