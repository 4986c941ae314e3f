//! Machines: creation, operations, volumes, and how they look to the outside. The states and who may cause which
//! change are drawn in [`cimi::lifecycle`]; everything here only changes what is *wanted*.

mod attach;
mod called;
mod create;
mod members;
mod operate;
mod request;
mod save;
mod view;

use std::sync::Arc;

use cimi::{Right, resources::Machine};
use documents::Cached;

pub(crate) use attach::available;
pub(crate) use called::{called, called_by_id, who_need_it};
pub(crate) use request::{configuration_capacity, typed};
pub(crate) use view::text_of;

use crate::{Cloud, OpContext, Result, access};

impl Cloud {
    /// A machine by the part of its id after the slash, or by its number.
    pub(crate) fn find_machine(
        &self,
        context: &OpContext,
        id: &str,
        right: Right,
    ) -> Result<Arc<Cached<Machine>>> {
        let documents = &self.0.documents;
        if !id.is_empty() && id.len() <= 10 && id.bytes().all(|b| b.is_ascii_digit()) {
            let number = id.trim_start_matches('0');
            let numbered = documents.machines.by_index("vmid", number);
            if let Some(machine) = numbered.into_iter().next() {
                return access::found(context, Some(machine), id, right);
            }
        }
        access::find(documents, context, id, right)
    }
}
