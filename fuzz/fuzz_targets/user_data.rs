//! User data and context variables as requests carry them.
#![no_main]

use context::decoding::{accept_user_data, decode_user_data};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = accept_user_data(data.to_vec());
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = decode_user_data(text);
        let _ = context::AuthorizedKeys::parse(text);
        let mut variables = context::Variables::new();
        let _ = variables.set(text, text);
    }
});
