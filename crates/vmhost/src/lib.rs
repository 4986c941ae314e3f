//! vmhost
