//! Serial EEPROM behind a bit-banged Microwire port (93C46 as fitted to 8254x cards).
