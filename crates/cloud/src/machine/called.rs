//! What messages call machines: by the number and the name that their users know, and not by the ids of documents.

use cimi::{MachineId, Right, resources::Machine};
use documents::Documents;

use crate::OpContext;

/// Machines that a message names; of more it says how many.
const NAMED_AT_MOST: usize = 8;

/// `machine 12 (web)`; for who may not see it, by its id, which is no secret of it.
pub(crate) fn called(context: &OpContext, machine: &Machine) -> String {
    if context.right_on(&machine.common.acl) < Some(Right::View) {
        return format!("{}, which is not yours,", machine.id);
    }
    format!("machine {}", numbered(machine))
}

/// The same of a machine that a document refers to.
pub(crate) fn called_by_id(documents: &Documents, context: &OpContext, id: &MachineId) -> String {
    match documents.machines.get(id.local()) {
        Some(machine) => called(context, &machine),
        None => id.to_string(),
    }
}

/// `machines 12 (web) and 13 need it`, with how many there are besides; nothing if there is none.
pub(crate) fn who_need_it<'m>(
    context: &OpContext,
    machines: impl IntoIterator<Item = &'m Machine>,
) -> Option<String> {
    let mut machines: Vec<&Machine> = machines.into_iter().collect();
    machines.sort_unstable_by_key(|machine| machine.vmid);
    let all = machines.len();
    machines.retain(|machine| context.right_on(&machine.common.acl) >= Some(Right::View));
    let seen = machines.len();
    let mut named: Vec<String> = machines.iter().map(|machine| numbered(machine)).collect();
    named.truncate(NAMED_AT_MOST);
    let (more, others) = (seen - named.len(), all - seen);
    let what = if seen == 1 { "machine" } else { "machines" };
    let mut parts: Vec<String> = Vec::new();
    if seen > 0 {
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        parts.push(format!("{what} {}{more}", named.join(", ")));
    }
    match others {
        0 => {}
        1 => parts.push("one machine of others".to_owned()),
        several => parts.push(format!("{several} machines of others")),
    }
    let needs = if all == 1 { "needs" } else { "need" };
    (all > 0).then(|| format!("{} {needs} it", parts.join(" and ")))
}

/// `12 (web)`; nothing is said of a name that nobody chose.
fn numbered(machine: &Machine) -> String {
    let number = machine.vmid;
    match &machine.common.name {
        Some(name) if *name != format!("one-{number}") => format!("{number} ({name})"),
        _ => number.to_string(),
    }
}
