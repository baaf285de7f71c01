//! From files and the simulator to messages of a topic.

pub(crate) mod check;
pub(crate) mod csv;
pub(crate) mod pace;
pub(crate) mod pack;
pub(crate) mod simulate;
