//! The cloud's rules behind the doors: passes calls on, and decides nothing.

use async_trait::async_trait;
use cimi::{
    model::{Changes, Kind},
    query::Query,
};
use cloud::{
    Cloud, CloudError, Console, ConsoleRange, Created, Done, Download, DownloadRequest, Health,
    HostUse, OpContext, Page, Result, Since, Upload, UsageQuery, View, Watching,
};
use serde_json::Value;

use crate::{Body, CloudApi};

#[async_trait]
impl CloudApi for Cloud {
    async fn list(&self, context: &OpContext, kind: Kind, query: &Query) -> Result<Page> {
        if !self.takes_long(kind) {
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

    async fn watch_members(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        query: &Query,
        since: Since,
    ) -> Result<Watching> {
        Self::watch_members(
            self,
            context,
            (parent, id, collection),
            query.filter.clone(),
            since,
        )
        .await
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
        let (members, can_add) = self.members(context, parent, id, collection).await?;
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
        self.member(context, parent, id, collection, member).await
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

    async fn download(
        &self,
        context: &OpContext,
        image: &str,
        request: DownloadRequest,
    ) -> Result<Download> {
        self.download_image(context, image, request).await
    }

    async fn console(
        &self,
        context: &OpContext,
        machine: &str,
        range: ConsoleRange,
    ) -> Result<Console> {
        Self::console(self, context, machine, range).await
    }

    async fn catalogue(&self, context: &OpContext, name: Option<&str>) -> Result<Value> {
        match name {
            None => self.catalogues(context).await,
            Some(name) => self.products_of(context, name).await,
        }
    }

    async fn status(&self, context: &OpContext) -> Result<Value> {
        Self::status(self, context)
    }

    async fn doctor(&self, context: &OpContext, repair: bool) -> Result<Value> {
        Self::doctor(self, context, repair).await
    }

    async fn quota(
        &self,
        context: &OpContext,
        user: Option<&str>,
        group: Option<&str>,
    ) -> Result<Value> {
        match group {
            Some(group) => Self::quota_of_group(self, context, group),
            None => Self::quota_of_user(self, context, user),
        }
    }

    async fn usage(&self, context: &OpContext, query: UsageQuery) -> Result<Value> {
        Self::usage(self, context, &query).await
    }

    async fn make_host_token(&self, context: &OpContext, body: Body) -> Result<Value> {
        self.create_host_token(context, &body).await
    }

    async fn host_tokens(&self, context: &OpContext) -> Result<Value> {
        Self::host_tokens(self, context)
    }

    async fn withdraw_host_token(&self, context: &OpContext, id: &str) -> Result<()> {
        Self::withdraw_host_token(self, context, id).await
    }

    async fn load(&self) -> Vec<HostUse> {
        Self::load(self)
    }

    async fn health(&self) -> Health {
        Self::health(self)
    }
}
