//! What stands around every page, and the page that says how something ended.

use askama::Template;

/// A link with its words.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Where to.
    pub(crate) href: String,
    /// What it says.
    pub(crate) label: String,
    /// Whether it is where the reader is.
    pub(crate) is_current: bool,
}

impl Link {
    /// To another page.
    pub(crate) fn to(href: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            href: href.into(),
            label: label.into(),
            is_current: false,
        }
    }
}

/// What `base.html` needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Of this page, as tabs and bookmarks show it.
    pub(crate) title: String,
    /// Of the whole, as the bar shows it.
    pub(crate) site: String,
    /// Where the name of the whole leads.
    pub(crate) home: String,
    /// In the bar.
    pub(crate) links: Vec<Link>,
}

impl Page {
    /// A page of a site whose name leads to `home`.
    pub(crate) fn new(
        title: impl Into<String>,
        site: impl Into<String>,
        home: impl Into<String>,
    ) -> Self {
        Self {
            title: title.into(),
            site: site.into(),
            home: home.into(),
            links: Vec::new(),
        }
    }

    /// With these in the bar; the one that leads to `current` is marked.
    #[must_use]
    pub(crate) fn with_links(mut self, links: Vec<Link>, current: &str) -> Self {
        self.links = links
            .into_iter()
            .map(|link| Link {
                is_current: link.href == current,
                ..link
            })
            .collect();
        self
    }
}

/// How something ended, and where to go on.
#[derive(Template)]
#[template(path = "status.html")]
pub(crate) struct Status {
    pub(crate) page: Page,
    pub(crate) is_error: bool,
    pub(crate) heading: String,
    pub(crate) paragraphs: Vec<String>,
    pub(crate) onward: Option<Link>,
}
