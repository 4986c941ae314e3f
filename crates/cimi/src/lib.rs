//! cimi
