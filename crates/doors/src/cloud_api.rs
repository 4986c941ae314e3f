//! What the doors need of the cloud.

use async_trait::async_trait;
use cimi::{
    model::{Changes, Kind},
    query::Query,
};
use cloud::{
    Console, ConsoleRange, Created, Done, Download, DownloadRequest, Health, HostUse, OpContext,
    Page, Result, Since, Upload, UsageQuery, View, Watching,
};
use serde_json::{Map, Value};

/// A checked and normalised body: known attributes with values of the right kind, references as
/// `{"href": …}`, nothing that only the provider writes (see [`cimi::model::check`]).
pub type Body = Map<String, Value>;

/// The rules of the cloud as every door calls them. Bodies have passed [`cimi::model::check`];
/// ids are the part after the type, exactly as in the URL (percent-decoded): a UUID, or a machine's
/// number, or an image's 27-character identifier. Implementations authorize by the context alone.
#[async_trait]
pub trait CloudApi: Send + Sync + 'static {
    /// The members of a collection that the caller may see, filtered, ordered and cut to the page.
    async fn list(&self, context: &OpContext, kind: Kind, query: &Query) -> Result<Page>;

    /// Follows a collection: its members that the caller may see and for which the query's filter holds.
    async fn watch(
        &self,
        context: &OpContext,
        kind: Kind,
        query: &Query,
        since: Since,
    ) -> Result<Watching>;

    /// Follows a resource's own collection.
    async fn watch_members(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        query: &Query,
        since: Since,
    ) -> Result<Watching>;

    /// One resource. `Kind::CloudEntryPoint` has the empty id; doors add `baseURI` and the links.
    async fn get(&self, context: &OpContext, kind: Kind, id: &str) -> Result<View>;

    /// Makes a resource. For Machine and Volume the body is that of MachineCreate and VolumeCreate
    /// (`machineTemplate`, `volumeTemplate`), for the others the resource's own attributes.
    async fn create(&self, context: &OpContext, kind: Kind, body: Body) -> Result<Created>;

    /// Changes attributes; what the changes don't name stays.
    async fn edit(
        &self,
        context: &OpContext,
        kind: Kind,
        id: &str,
        changes: Changes,
    ) -> Result<Done>;

    /// Deletes a resource.
    async fn delete(&self, context: &OpContext, kind: Kind, id: &str) -> Result<Done>;

    /// Does an action, by its name in lower case (`start`, `stop`, `restart`, `kill`, `shutdown`).
    /// The body holds what the request had beside `action`: `force`, `properties`.
    async fn act(
        &self,
        context: &OpContext,
        kind: Kind,
        id: &str,
        action: &str,
        body: Body,
    ) -> Result<Done>;

    /// The members of a resource's own collection, e.g. `volumes` of a Machine.
    async fn list_members(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        query: &Query,
    ) -> Result<Page>;

    /// One member of it.
    async fn get_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<View>;

    /// Adds a member to it.
    async fn add_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        body: Body,
    ) -> Result<Created>;

    /// Takes a member out of it.
    async fn delete_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<Done>;

    /// Whether the caller may create resources of this type at all (for `add` operations).
    fn can_create(&self, context: &OpContext, kind: Kind) -> bool;

    /// Whether the caller may use the collection of this type at all (for the CloudEntryPoint).
    fn can_list(&self, context: &OpContext, kind: Kind) -> bool;

    /// Takes the content of an image that waits for it; returns once it is checked and cached.
    /// No deadline: ends when the sender ends or leaves.
    async fn upload(&self, context: &OpContext, image: &str, upload: Upload) -> Result<View>;

    /// The content of an image, whole or in part.
    async fn download(
        &self,
        context: &OpContext,
        image: &str,
        request: DownloadRequest,
    ) -> Result<Download>;

    /// The serial console of a machine.
    async fn console(
        &self,
        context: &OpContext,
        machine: &str,
        range: ConsoleRange,
    ) -> Result<Console>;

    /// `GET /stratus/catalogue`: where images are found by name, or the products of one of them.
    async fn catalogue(&self, context: &OpContext, name: Option<&str>) -> Result<Value>;

    /// `GET /stratus/status`, for administrators.
    async fn status(&self, context: &OpContext) -> Result<Value>;

    /// `POST /stratus/doctor`, for administrators.
    async fn doctor(&self, context: &OpContext, repair: bool) -> Result<Value>;

    /// `GET /stratus/quota`: what a user or a group has and may have; the caller if neither is named.
    async fn quota(
        &self,
        context: &OpContext,
        user: Option<&str>,
        group: Option<&str>,
    ) -> Result<Value>;

    /// `GET /stratus/accounting`: a page of who used what from when to when.
    async fn usage(&self, context: &OpContext, query: UsageQuery) -> Result<Value>;

    /// `POST /stratus/host-tokens`, for administrators: what one host joins by.
    async fn make_host_token(&self, context: &OpContext, body: Body) -> Result<Value>;

    /// `GET /stratus/host-tokens`, for administrators: those that hosts can join by, without their secret.
    async fn host_tokens(&self, context: &OpContext) -> Result<Value>;

    /// `DELETE /stratus/host-tokens/7`, for administrators.
    async fn withdraw_host_token(&self, context: &OpContext, id: &str) -> Result<()>;

    /// `GET /load.txt`: how full each host is.
    async fn load(&self) -> Vec<HostUse>;

    /// How well the cloud is. Answers fast and never waits for what it reports on.
    async fn health(&self) -> Health;
}
