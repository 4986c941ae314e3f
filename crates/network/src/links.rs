//! Interfaces of the current network namespace, over one netlink connection that lives as long as this value.

use std::time::Duration;

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use rtnetlink::{Handle, LinkUnspec};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{NetworkError, Result};
use crate::name::{self, InterfaceName};

const KERNEL_ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Error numbers as they are on the wire, negative.
pub(crate) const ENOENT: i32 = -2;
pub(crate) const EEXIST: i32 = -17;
const ENODEV: i32 = -19;

/// A connection to the kernel's interface table.
///
/// It belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Links {
    pub(crate) handle: Handle,
    _connection: AbortOnDropHandle<()>,
}

/// What is known of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
    /// Whether it is set up (not: whether it has a carrier).
    pub up: bool,
    /// Its alias, a text for people and programs.
    pub alias: Option<String>,
}

impl Links {
    /// Opens the connection; needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no netlink socket for us.
    pub fn open() -> Result<Self> {
        let (connection, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(|source| NetworkError::Socket {
                what: "opening a netlink socket".into(),
                source,
            })?;
        Ok(Self {
            handle,
            _connection: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// The kernel refused or did not answer.
    pub async fn find(&self, name: &InterfaceName) -> Result<Option<Link>> {
        let message = self.message(name).await?;
        Ok(message.map(|message| describe(&message)))
    }

    /// All that the kernel tells about the interface of that name.
    pub(crate) async fn message(&self, name: &InterfaceName) -> Result<Option<LinkMessage>> {
        let request = self.handle.link().get().match_name(name.as_str()).execute();
        let mut found = std::pin::pin!(request);
        match within(&format!("looking up {name}"), found.try_next()).await {
            Ok(message) => Ok(message),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces whose name begins with `prefix`, sorted by name.
    ///
    /// # Errors
    /// The kernel refused or did not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Link>> {
        let request = self.handle.link().get().execute();
        let all: Vec<LinkMessage> = within("listing interfaces", request.try_collect()).await?;
        let mut links: Vec<Link> = all
            .iter()
            .map(describe)
            .filter(|link| link.name.starts_with(prefix))
            .collect();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(links)
    }

    /// The bridges of this and other clouds on this host.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub(crate) async fn bridges_of_stratus(&self) -> Result<Vec<Link>> {
        let mut links = self.list(name::PREFIX).await?;
        links.retain(|link| link.name.ends_with(name::BRIDGE_SUFFIX));
        Ok(links)
    }

    /// The names of the bridges on this host that aren't a cloud's own, in their order: those of its operator.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn bridges_of_operator(&self) -> Result<Vec<String>> {
        let request = self.handle.link().get().execute();
        let all: Vec<LinkMessage> = within("listing bridges", request.try_collect()).await?;
        let bridges = all
            .iter()
            .filter(|message| kind(message) == Some(InfoKind::Bridge));
        let mut names: Vec<String> = bridges.map(|message| describe(message).name).collect();
        names.retain(|name| {
            !(name.starts_with(name::PREFIX) && name.ends_with(name::BRIDGE_SUFFIX))
        });
        names.sort_unstable();
        Ok(names)
    }

    /// Makes the interface a port of `bridge` and sets it up.
    ///
    /// # Errors
    /// There is no such interface or bridge, or the kernel refused.
    pub async fn attach(&self, name: &InterfaceName, bridge_index: u32, mtu: u16) -> Result<()> {
        // Without an address of its own the host says nothing on the wire to the guest. A request of its own: the kernel
        // sets an interface up, and gives it an address, before it looks at this part of one.
        let no_ipv6 =
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                In6AddrGenMode::None,
            )])]);
        let message = LinkUnspec::new_with_name(name.as_str())
            .append_extra_attribute(no_ipv6)
            .build();
        within(
            &format!("keeping IPv6 off {name}"),
            self.handle.link().change(message).execute(),
        )
        .await?;
        let message = LinkUnspec::new_with_name(name.as_str())
            .controller(bridge_index)
            .mtu(u32::from(mtu))
            .up()
            .build();
        within(
            &format!("attaching {name} to the bridge"),
            self.handle.link().change(message).execute(),
        )
        .await
    }

    /// Removes the interface; `false` when there was none.
    ///
    /// # Errors
    /// The kernel refused or did not answer.
    pub async fn delete(&self, name: &InterfaceName) -> Result<bool> {
        let Some(link) = self.find(name).await? else {
            return Ok(false);
        };
        match within(
            &format!("removing {name}"),
            self.handle.link().del(link.index).execute(),
        )
        .await
        {
            Ok(()) => Ok(true),
            // It went by itself in between, as a tap does with its QEMU.
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Runs a request with a limit, and names it in the error.
pub(crate) async fn within<T>(
    what: &str,
    request: impl Future<Output = std::result::Result<T, rtnetlink::Error>>,
) -> Result<T> {
    match tokio::time::timeout(KERNEL_ANSWER_LIMIT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(NetworkError::Link {
            what: what.to_owned(),
            source,
        }),
        Err(_) => Err(NetworkError::Timeout {
            what: what.to_owned(),
            limit: KERNEL_ANSWER_LIMIT,
        }),
    }
}

/// The kernel's error number, negative as on the wire.
pub(crate) fn kernel_code(error: &NetworkError) -> Option<i32> {
    match error {
        NetworkError::Link {
            source: rtnetlink::Error::NetlinkError(message),
            ..
        } => Some(message.raw_code()),
        _ => None,
    }
}

fn is_missing(error: &NetworkError) -> bool {
    kernel_code(error) == Some(ENODEV)
}

/// What kind of interface it is, if the kernel says so.
pub(crate) fn kind(message: &LinkMessage) -> Option<InfoKind> {
    let infos = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.clone()),
        _ => None,
    })
}

pub(crate) fn describe(message: &LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        index: message.header.index,
        controller: None,
        up: message.header.flags.contains(LinkFlags::Up),
        alias: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Controller(index) if *index != 0 => link.controller = Some(*index),
            _ => {}
        }
    }
    link
}
