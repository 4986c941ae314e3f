//! The table of machines, column by column as StratusLab's scripts read it.

use crate::cloud::MachineView;
use crate::output::printable;

/// A row of the table.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Cells: id, state, vcpu, memory, cpu%, host/ip, translated ports if shown, name.
    pub cells: Vec<String>,
    /// Shown below the row.
    pub note: Option<String>,
}

const BEFORE_PORTS: [(&str, usize); 6] = [
    ("id", 4),
    ("state", 10),
    ("vcpu", 5),
    ("memory", 10),
    ("cpu%", 5),
    ("host/ip", 24),
];
const PORTS: (&str, usize) = ("pat(VM:GW)", 16);
const NAME: (&str, usize) = ("name", 4);

impl Row {
    /// The row of a machine. `host` is the name or address to show; `with_ports` adds the column of translated ports.
    #[must_use]
    pub fn of(machine: &MachineView, host: &str, with_ports: bool, note: Option<String>) -> Self {
        let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        let mut cells = vec![
            machine.shown_id(),
            printable(machine.shown_state()),
            number(machine.cpu),
            number(machine.memory_used.or(machine.memory)),
            format!("{:.0}", machine.cpu_percent.unwrap_or(0.0)),
            printable(host),
        ];
        if with_ports {
            cells.push(translated_ports(machine));
        }
        cells.push(printable(machine.name.as_deref().unwrap_or_default()));
        Self { cells, note }
    }
}

/// `22:15003`, when SSH is reached by another port than its own.
fn translated_ports(machine: &MachineView) -> String {
    machine
        .ssh
        .as_ref()
        .filter(|ssh| ssh.port != 22 && ssh.port != 0)
        .map(|ssh| format!("22:{}", ssh.port))
        .unwrap_or_default()
}

/// Header and rows, a line each, without a newline at the end. A column grows to its longest value and a blank.
#[must_use]
pub fn render(rows: &[Row], with_ports: bool) -> String {
    let mut columns = BEFORE_PORTS.to_vec();
    columns.extend(with_ports.then_some(PORTS));
    columns.push(NAME);
    let last = columns.len() - 1;
    for (index, (_, width)) in columns.iter_mut().enumerate().take(last) {
        let longest = rows
            .iter()
            .filter_map(|row| row.cells.get(index))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0);
        if longest >= *width {
            *width = longest + 1;
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        columns
            .iter()
            .zip(cells)
            .map(|((_, width), cell)| format!("{cell:<width$}"))
            .collect::<String>()
    };
    let mut lines = vec![line(&mut columns.iter().map(|(title, _)| *title))];
    let id_width = columns.first().map_or(0, |(_, width)| *width);
    for row in rows {
        lines.push(line(&mut row.cells.iter().map(String::as_str)));
        lines.extend(
            row.note
                .as_deref()
                .map(|note| format!("{}{}", " ".repeat(id_width), printable(note))),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineView {
        serde_json::from_value(serde_json::json!({
            "vmid": 7, "phase": "Running", "cpu": 1, "memory": 1_572_864, "cpuPercent": 8.2, "name": "one-7", "addresses": ["192.0.2.7"],
            "ssh": {"host": "192.0.2.1", "port": 15003}
        }))
        .unwrap()
    }

    #[test]
    fn the_table_of_the_contract() {
        let row = Row::of(&machine(), "vm-7.example.org", false, None);
        assert_eq!(
            render(&[row], false),
            "id  state     vcpu memory    cpu% host/ip                 name\n7   Running   1    1572864   8    vm-7.example.org        one-7"
        );
        assert_eq!(
            render(&[], false),
            "id  state     vcpu memory    cpu% host/ip                 name"
        );
    }

    #[test]
    fn a_column_grows_by_a_blank_and_a_note_stands_below() {
        let mut wide = machine();
        wide.vmid = Some(12345);
        let row = Row::of(
            &wide,
            "a-host-name-of-24-letters",
            false,
            Some("no space left".to_owned()),
        );
        assert_eq!(
            render(&[row], false),
            "id    state     vcpu memory    cpu% host/ip                   name\n12345 Running   1    1572864   8    a-host-name-of-24-letters one-7\n      no space left"
        );
    }

    #[test]
    fn translated_ports_come_before_the_name() {
        let row = Row::of(&machine(), "192.0.2.7", true, None);
        assert_eq!(
            render(&[row], true),
            "id  state     vcpu memory    cpu% host/ip                 pat(VM:GW)      name\n7   Running   1    1572864   8    192.0.2.7               22:15003        one-7"
        );
    }
}
