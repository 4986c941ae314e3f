//! Bodies in XML: whatever is text is either read or refused, and what was read goes through the same checks as JSON.
#![no_main]

use cimi::{
    model::{
        Kind, check, check_action, check_changes,
        xml::{Expected, read},
    },
    query::Select,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for kind in Kind::ALL {
        if let Ok(body) = read(text, Expected::Creation(*kind)) {
            let _ = check(*kind, &body);
        }
        if let Ok(body) = read(text, Expected::Change(*kind)) {
            let _ = check_changes(*kind, &body, &Select::All);
        }
        let _ = read(text, Expected::Collection(*kind));
    }
    if let Ok(body) = read(text, Expected::Action) {
        let _ = check_action("stop", &body);
    }
});
