"""Node management: registrations, health, pools, maintenance, work and payouts, as events."""
