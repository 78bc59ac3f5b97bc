"""What the HTTP server itself needs from us: limits on the heads of requests, refused WebSockets."""
