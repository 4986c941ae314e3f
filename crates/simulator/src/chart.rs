//! The page of a report: figures, and charts as SVG. Complete in itself, without scripts.

use std::fmt::Write as _;

use crate::{Moment, Report};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 200.0;
/// Room for the labels beside and below a chart.
const MARGIN: f64 = 48.0;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1a1d23;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}pre{background:#f3f4f6;padding:1rem;border-radius:.5rem;white-space:pre-wrap}\
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#5a6270}.a{stroke:#1f6feb}.b{stroke:#d9480f}polyline{fill:none;stroke-width:2}\
.axis{stroke:#c7ccd4}rect{fill:#1f6feb}.key b{display:inline-block;width:.8rem;height:.8rem;border-radius:.2rem;margin-right:.3rem}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14161a}pre{background:#1e2127}text{fill:#a3abb8}.axis{stroke:#3a404b}}";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let lines = |course: &[Moment], value: fn(&Moment) -> f64| -> Vec<(f64, f64)> {
        course
            .iter()
            .map(|moment| (moment.hour, value(moment)))
            .collect()
    };
    let machines = line_chart(
        report.hours,
        &[
            (
                "run",
                lines(&report.course, |moment| f64::from(moment.running)),
            ),
            (
                "wait",
                lines(&report.course, |moment| f64::from(moment.waiting)),
            ),
        ],
        None,
    );
    let used = line_chart(
        report.hours,
        &[
            (
                "memory",
                lines(&report.course, |moment| moment.memory_used * 100.0),
            ),
            (
                "processors",
                lines(&report.course, |moment| moment.cpu_used * 100.0),
            ),
        ],
        Some(100.0),
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Simulation of {} hosts</title><style>{STYLE}</style>\n\
         <h1>{} machines on {} hosts</h1>\n<pre>{}</pre>\n\
         <h2>Machines</h2>\n{machines}\n<h2>Used, in %</h2>\n{used}\n<h2>Hosts, by how full their memory is at the end</h2>\n{}\n</html>\n",
        report.hosts,
        report.machines,
        report.hosts,
        escaped(&report.to_string()),
        bars(&report.filled),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Lines over hours; `highest` of none: the highest value there is.
fn line_chart(hours: f64, lines: &[(&str, Vec<(f64, f64)>)], highest: Option<f64>) -> String {
    let values = lines
        .iter()
        .flat_map(|(_, points)| points)
        .map(|(_, value)| *value);
    let top = highest.unwrap_or_else(|| values.fold(1.0, f64::max));
    let mut out = begin("hours", top);
    for ((_, points), class) in lines.iter().zip(["a", "b"]) {
        let _ = write!(out, "<polyline class=\"{class}\" points=\"");
        for (hour, value) in points {
            let x = MARGIN + hour / hours.max(f64::MIN_POSITIVE) * WIDTH;
            let _ = write!(out, "{x:.1},{:.1} ", HEIGHT - value / top * HEIGHT + 8.0);
        }
        out.push_str("\"/>");
    }
    let _ = write!(
        out,
        "<text x=\"{MARGIN}\" y=\"{y}\">0</text><text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{hours}</text></svg><p class=\"key\">",
        x = MARGIN + WIDTH,
        y = HEIGHT + 26.0
    );
    for ((name, _), colour) in lines.iter().zip(["#1f6feb", "#d9480f"]) {
        let _ = write!(out, "<b style=\"background:{colour}\"></b>{name} &nbsp; ");
    }
    out.push_str("</p>");
    out
}

/// How many there are of each twentieth.
fn bars(counts: &[u32]) -> String {
    let top = f64::from(counts.iter().copied().max().unwrap_or(1).max(1));
    let mut out = begin("full, in %", top);
    let mut x = MARGIN;
    let width = WIDTH / f64::from(u32::try_from(counts.len().max(1)).unwrap_or(1));
    for count in counts {
        let height = f64::from(*count) / top * HEIGHT;
        let _ = write!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{count}</title></rect>",
            x + 1.0,
            HEIGHT - height + 8.0,
            width - 2.0
        );
        x += width;
    }
    let _ = write!(
        out,
        "<text x=\"{MARGIN}\" y=\"{y}\">0</text><text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">100</text></svg>",
        x = MARGIN + WIDTH,
        y = HEIGHT + 26.0
    );
    out
}

fn begin(below: &str, top: f64) -> String {
    let (right, bottom) = (MARGIN + WIDTH, HEIGHT + 8.0);
    format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\"><line class=\"axis\" x1=\"{MARGIN}\" y1=\"8\" x2=\"{MARGIN}\" y2=\"{bottom}\"/>\
         <line class=\"axis\" x1=\"{MARGIN}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>\
         <text x=\"{}\" y=\"16\" text-anchor=\"end\">{top:.0}</text><text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{below}</text>",
        right + 8.0,
        HEIGHT + 36.0,
        MARGIN - 6.0,
        MARGIN - 6.0,
        MARGIN + WIDTH / 2.0,
        HEIGHT + 26.0,
    )
}
