"""Training of forecasters: what is forecast, and how it is learned."""
