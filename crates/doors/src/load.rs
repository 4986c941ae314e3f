//! `GET /load.txt`: the hosts and how full they are, in the columns of StratusLab's `onehost list`.

use bytes::Bytes;
use cloud::{HostUse, Takes};
use http::{HeaderValue, Response, header};

use crate::body::ResponseBody;

/// What a host is said to have of processors that told nothing yet.
const UNHEARD_CPU_PERCENT: u64 = 100;

/// The answer.
pub(crate) fn answer(hosts: &[HostUse]) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Bytes::from(text(hosts))));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn text(hosts: &[HostUse]) -> String {
    let mut text = line([
        "ID", "NAME", "RVM", "TCPU", "FCPU", "ACPU", "TMEM", "FMEM", "AMEM", "STAT",
    ]);
    for (number, host) in hosts.iter().enumerate() {
        let (cpu, of_memory) = (host.cpu_percent, host.memory_kib);
        let left = |of: u64, taken: u64| of.saturating_sub(taken);
        let offered_cpu = if cpu.total == 0 {
            UNHEARD_CPU_PERCENT
        } else {
            cpu.total
        };
        // Who reads this takes it apart at the blanks.
        let name: String = host.name.split_whitespace().collect::<Vec<_>>().join("_");
        text += &line([
            &number.to_string(),
            &name,
            &host.running.to_string(),
            &cpu.total.to_string(),
            &left(cpu.total, cpu.used).to_string(),
            &left(offered_cpu, cpu.booked).to_string(),
            &memory(of_memory.total),
            &memory(left(of_memory.total, of_memory.used)),
            &memory(left(of_memory.total, of_memory.booked)),
            match host.takes {
                Takes::Machines => "on",
                Takes::Nothing => "off",
                Takes::Fault => "err",
            },
        ]);
    }
    text
}

fn line(columns: [&str; 10]) -> String {
    let [id, name, rest @ ..] = columns;
    let mut line = format!("{id:>4} {name:<15}");
    for column in rest {
        line += &format!(" {column:>6}");
    }
    line + "\n"
}

/// KiB in the largest unit that leaves more than one, up to T; one digit after the point above K.
fn memory(kib: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut amount = kib as f64;
    let mut units = "KMGT".chars();
    let mut unit = units.next();
    while amount > 1024.0
        && let Some(next) = units.next()
    {
        amount /= 1024.0;
        unit = Some(next);
    }
    let digits = usize::from(unit != Some('K'));
    format!("{amount:.digits$}{}", unit.unwrap_or('T'))
}

#[cfg(test)]
mod tests {
    use cloud::Filled;

    use super::*;

    #[test]
    fn amounts_are_in_the_largest_unit_that_leaves_more_than_one() {
        for (kib, shown) in [
            (0, "0K"),
            (1024, "1024K"),
            (1536, "1.5M"),
            (1 << 20, "1024.0M"),
            (4_000_000, "3.8G"),
            (3 << 30, "3.0T"),
            (u64::MAX, "17179869184.0T"),
        ] {
            assert_eq!(memory(kib), shown);
        }
    }

    #[test]
    fn the_columns_are_those_of_the_contract() {
        let of = |total, used, booked| Filled {
            total,
            used,
            booked,
        };
        let well = HostUse {
            name: "node 1".to_owned(),
            running: 3,
            cpu_percent: of(800, 950, 300),
            memory_kib: of(32_000_000, 8_000_000, 4 << 20),
            takes: Takes::Machines,
        };
        // One that was never heard of.
        let unheard = HostUse {
            name: "node2.of-a-long-name".to_owned(),
            running: 0,
            cpu_percent: of(0, 0, 0),
            memory_kib: of(0, 0, 0),
            takes: Takes::Fault,
        };
        assert_eq!(
            text(&[well, unheard]),
            "  ID NAME               RVM   TCPU   FCPU   ACPU   TMEM   FMEM   AMEM   STAT\n   \
               0 node_1               3    800      0    500  30.5G  22.9G  26.5G     on\n   \
               1 node2.of-a-long-name      0      0      0    100     0K     0K     0K    err\n"
        );
    }
}
