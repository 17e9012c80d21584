"""The APIs: each translates its wire types to requests of the service, and events back."""
