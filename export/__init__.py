"""From the collapsed network to the inspection station."""
