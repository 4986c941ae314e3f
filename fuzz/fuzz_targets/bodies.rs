//! Bodies of creations: whatever is JSON is either brought to the normal form or refused with reasons. The normal form is
//! accepted again and stays as it is.
#![no_main]

use cimi::model::{Kind, check};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(body) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    for kind in Kind::ALL {
        match check(*kind, &body) {
            Ok(normal) => {
                let again = check(*kind, &Value::Object(normal.clone()));
                assert_eq!(again.as_ref(), Ok(&normal), "{kind:?}");
            }
            Err(violations) => assert!(!violations.is_empty()),
        }
    }
});
