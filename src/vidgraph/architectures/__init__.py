"""Builder functions: parts put together into models, under the names that the catalogue lists."""
