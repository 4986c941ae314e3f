//! The bounds of everything a user may put into a machine's context, in bytes unless named otherwise.

/// The gzip of the user data that the client sends (the StratusLab client's own limit).
pub const ENCODED_USER_DATA_MAX_BYTES: usize = 16_384;

/// User data as it arrives: after base64, before inflating.
pub const USER_DATA_MAX_BYTES: usize = 1024 * 1024;

/// User data after inflating. The reader stops here, so a compression bomb costs no more than this.
pub const INFLATED_USER_DATA_MAX_BYTES: usize = 4 * 1024 * 1024;

/// How many variables one machine may have.
pub const VARIABLES_MAX: usize = 64;

/// One variable's value.
pub const VARIABLE_MAX_BYTES: usize = 64 * 1024;

/// All values of one machine together. OpenNebula's guest scripts export every variable, and Linux
/// refuses to start a program whose arguments and environment pass 2 MiB (a quarter of an 8 MiB stack).
pub const VARIABLES_TOTAL_MAX_BYTES: usize = 1024 * 1024;

/// A variable's name.
pub const VARIABLE_NAME_MAX_BYTES: usize = 128;

/// All authorized keys of one machine together.
pub const AUTHORIZED_KEYS_MAX_BYTES: usize = 64 * 1024;

/// A value that the guest's scripts export: Linux refuses any single environment string of 128 KiB
/// (`MAX_ARG_STRLEN`), and then no program of that script starts any more. Computed values that are
/// longer are left out of the CONTEXT medium; the NoCloud medium carries them whole.
pub const EXPORTED_VALUE_MAX_BYTES: usize = 96 * 1024;

/// A whole medium.
pub const MEDIUM_MAX_BYTES: usize = 8 * 1024 * 1024;
