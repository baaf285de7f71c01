//! A seeded fleet with labelled faults, for the demo, for send and for tests.
