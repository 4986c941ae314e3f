//! vmhost

pub mod accel;
