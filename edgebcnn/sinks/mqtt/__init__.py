"""Events over MQTT: the connection, the status of the device, and Home Assistant discovery."""
