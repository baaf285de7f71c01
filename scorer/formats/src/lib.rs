//! The files models come in.
