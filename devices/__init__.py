"""Device profiles, one TOML file each; `README.md` tells how to add and measure a device."""
