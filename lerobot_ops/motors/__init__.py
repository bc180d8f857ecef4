"""Motors on serial buses: reading, writing, calibrating; `simulator` answers like them where there are none."""
