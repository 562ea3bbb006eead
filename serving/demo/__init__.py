"""The demo: two days of a site with simulated packs, real prices and real servers, then an account from the stores."""
