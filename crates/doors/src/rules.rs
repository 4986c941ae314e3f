//! The cloud's rules behind the doors: passes calls on, and decides nothing.

use async_trait::async_trait;
use cimi::{
    model::{Changes, Kind},
    query::Query,
};
use cloud::{
    Cloud, CloudError, Console, ConsoleRange, Created, Done, Health, OpContext, Page, Result,
    Since, Upload, View, Watching,
};
use serde_json::Value;

use crate::{Body, CloudApi};

#[async_trait]
impl CloudApi for Cloud {
    async fn list(&self, context: &OpContext, kind: Kind, query: &Query) -> Result<Page> {
        if !self.takes_long(kind, query) {
            return Self::list(self, context, kind, query);
        }
        let (cloud, context, query) = (self.clone(), context.clone(), query.clone());
        tokio::task::spawn_blocking(move || cloud.list(&context, kind, &query))
            .await
            .map_err(|error| CloudError::Internal(error.to_string()))?
    }

    async fn watch(
        &self,
        context: &OpContext,
        kind: Kind,
        query: &Query,
        since: Since,
    ) -> Result<Watching> {
        Self::watch(self, context, kind, query.filter.clone(), since)
    }

    async fn get(&self, context: &OpContext, kind: Kind, id: &str) -> Result<View> {
        Self::get(self, context, kind, id)
    }

    async fn create(&self, context: &OpContext, kind: Kind, body: Body) -> Result<Created> {
        Self::create(self, context, kind, body).await
    }

    async fn edit(
        &self,
        context: &OpContext,
        kind: Kind,
        id: &str,
        changes: Changes,
    ) -> Result<Done> {
        Self::edit(self, context, kind, id, changes).await
    }

    async fn delete(&self, context: &OpContext, kind: Kind, id: &str) -> Result<Done> {
        Self::delete(self, context, kind, id).await
    }

    async fn act(
        &self,
        context: &OpContext,
        kind: Kind,
        id: &str,
        action: &str,
        body: Body,
    ) -> Result<Done> {
        Self::act(self, context, kind, id, action, &body).await
    }

    async fn list_members(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        query: &Query,
    ) -> Result<Page> {
        let (members, can_add) = self.members(context, parent, id, collection)?;
        let (count, members) = query.page(members);
        Ok(Page {
            count,
            members,
            can_add,
        })
    }

    async fn get_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<View> {
        self.member(context, parent, id, collection, member)
    }

    async fn add_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        body: Body,
    ) -> Result<Created> {
        Self::add_member(self, context, parent, id, collection, body).await
    }

    async fn delete_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<Done> {
        Self::delete_member(self, context, parent, id, collection, member).await
    }

    fn can_create(&self, context: &OpContext, kind: Kind) -> bool {
        Self::can_create(self, context, kind)
    }

    fn can_list(&self, context: &OpContext, kind: Kind) -> bool {
        Self::can_list(self, context, kind)
    }

    async fn upload(&self, context: &OpContext, image: &str, upload: Upload) -> Result<View> {
        self.upload_image(context, image, upload).await
    }

    async fn console(
        &self,
        context: &OpContext,
        machine: &str,
        range: ConsoleRange,
    ) -> Result<Console> {
        Self::console(self, context, machine, range).await
    }

    async fn status(&self, context: &OpContext) -> Result<Value> {
        Self::status(self, context)
    }

    async fn doctor(&self, context: &OpContext, repair: bool) -> Result<Value> {
        Self::doctor(self, context, repair).await
    }

    async fn health(&self) -> Health {
        Self::health(self)
    }
}
