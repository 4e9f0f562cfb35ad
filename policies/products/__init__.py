"""Load balancers and power managers of products, by their own published rules (docs/products.md)."""
