//! Marvell 88E1000-family copper PHY (Alaska), as seen through MDIO.
