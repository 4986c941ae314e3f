//! Parameters of lists: `$filter` and `$orderby` of any text.
#![no_main]

use cimi::query::Query;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for name in ["$filter", "$orderby", "$first", "$last", "$select"] {
        let _ = Query::from_parameters([(name, text)]);
    }
});
