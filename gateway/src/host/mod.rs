//! (host)
