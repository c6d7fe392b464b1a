"""Where events go: files, MQTT, webhooks, Prometheus, the terminal, a window."""
