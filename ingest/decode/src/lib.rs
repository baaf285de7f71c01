//! JSON readings to Arrow columns, with every bad record isolated.
