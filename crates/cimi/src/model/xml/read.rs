//! What comes in, which may be anything.
//!
//! Clients in use leave out the namespace, put blanks around texts, order elements freely and name the
//! root in several ways for one and the same request: all that is read. Document type declarations are
//! not, so there are no entities but the five of XML itself and characters by number.

use std::borrow::Cow;

use quick_xml::{
    NsReader, XmlVersion,
    events::{BytesStart, Event},
    name::ResolveResult,
};
use serde_json::{Map, Value};

use super::{
    super::{Kind, Place, Shape, describe, scalar::is_character},
    content::{Content, Expected, single},
    error::XmlError,
    text::{BLANKS, Between},
};
use crate::uri;

/// Deepest nesting of elements read; bodies of the model have less than ten.
const DEPTH_AT_MOST: usize = 24;
/// Most elements read; as many as entries of maps and arrays are allowed fit in it several times.
const ELEMENTS_AT_MOST: usize = 20_000;
/// Most attributes read of one element, declarations of namespaces included.
const TAG_AT_MOST: usize = 24;

type Result<T> = std::result::Result<T, XmlError>;

/// Reads a document as the JSON value that says the same: names as the table spells them, what may be
/// there several times as arrays, numbers and booleans as such where the table has such. Unknown
/// elements are kept under their name, for [`check`](crate::model::check) to complain of.
///
/// # Errors
/// If it isn't well-formed XML, has what isn't read, is too large in some respect, or its root is of
/// another type.
pub fn read(text: &str, expected: Expected) -> Result<Value> {
    let mut events = NsReader::from_str(text);
    events.config_mut().expand_empty_elements = true;
    let mut reader = Reader {
        events,
        elements: 0,
        depth: 0,
    };
    // What can't be in XML begins with one of these bytes, which few texts have.
    let suspicious = |byte: u8| byte < b'\t' || (b'\x0b'..b' ').contains(&byte) || byte == 0xef;
    if text.bytes().any(suspicious)
        && let Some(found) = text.chars().find(|c| !is_character(*c))
    {
        return Err(reader.error(format!(
            "the character U+{:04X} can't be in XML",
            u32::from(found)
        )));
    }
    reader.document(expected)
}

/// A piece of an element's content.
enum Token<'x> {
    Start(BytesStart<'x>),
    End,
    Text(Cow<'x, str>),
    /// What is never trimmed: characters by reference, CDATA.
    Solid(Cow<'x, str>),
    Eof,
}

struct Reader<'x> {
    events: NsReader<&'x [u8]>,
    elements: usize,
    depth: usize,
}

impl<'x> Reader<'x> {
    fn error(&self, problem: impl Into<String>) -> XmlError {
        XmlError {
            position: self.events.buffer_position(),
            problem: problem.into(),
        }
    }

    fn document(&mut self, expected: Expected) -> Result<Value> {
        let root = loop {
            match self.token()? {
                Token::Start(start) => break start,
                Token::Text(text) if text.trim_matches(BLANKS).is_empty() => {}
                _ => return Err(self.error("the body has no element")),
            }
        };
        self.root_is(&root, expected)?;
        let content = match expected {
            Expected::Creation(kind) => Content::Creation(kind),
            Expected::Change(kind) | Expected::Representation(kind) => Content::Resource(kind),
            Expected::Action => Content::Action,
            Expected::Collection(kind) => Content::Collection(kind),
        };
        let mut members = match self.element(&root, content)? {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        if let Expected::Representation(kind) = expected {
            members.insert("resourceURI".to_owned(), describe(kind).uri().into());
        }
        loop {
            match self.token()? {
                Token::Eof => return Ok(Value::Object(members)),
                Token::Text(text) if text.trim_matches(BLANKS).is_empty() => {}
                _ => return Err(self.error("there is something after the end of the root")),
            }
        }
    }

    /// The root's name says of which type it is.
    fn root_is(&self, root: &BytesStart<'_>, expected: Expected) -> Result<()> {
        let name = root.local_name();
        let name: &str = name.as_ref();
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        let (fits, wanted) = match expected {
            Expected::Creation(kind) => {
                let stem = name.strip_suffix("Create").unwrap_or(name);
                (
                    stem.eq_ignore_ascii_case(kind.name()),
                    format!("{kind}> or <{kind}Create"),
                )
            }
            Expected::Change(kind) | Expected::Representation(kind) => {
                (is(kind.name()), kind.to_string())
            }
            Expected::Action => (is("Action"), "Action".to_owned()),
            Expected::Collection(_) => (is("Collection"), "Collection".to_owned()),
        };
        if fits {
            return Ok(());
        }
        Err(self.error(format!(
            "the root is <{}>, but must be <{wanted}>",
            shown(name)
        )))
    }

    /// The next piece; comments and processing instructions are passed over.
    fn token(&mut self) -> Result<Token<'x>> {
        loop {
            let event = match self.events.read_event() {
                Ok(event) => event,
                Err(error) => return Err(self.error(format!("the body is not XML: {error}"))),
            };
            return Ok(match event {
                Event::Start(start) => {
                    self.elements += 1;
                    if self.elements > ELEMENTS_AT_MOST {
                        return Err(self.error(format!(
                            "more than {ELEMENTS_AT_MOST} elements are not read"
                        )));
                    }
                    self.is_known(&start)?;
                    Token::Start(start)
                }
                Event::End(_) => Token::End,
                Event::Text(text) => Token::Text(text.xml10_content()),
                Event::CData(text) => Token::Solid(text.xml10_content()),
                Event::GeneralRef(reference) => {
                    Token::Solid(String::from(self.character(&reference)?).into())
                }
                Event::Eof => Token::Eof,
                Event::DocType(_) => {
                    return Err(self.error("document type declarations are not read"));
                }
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) => continue,
                Event::Empty(_) => return Err(self.error("the body is not XML")),
            });
        }
    }

    /// The character that `&…;` stands for.
    fn character(&self, reference: &str) -> Result<char> {
        let number = reference.strip_prefix('#').map(|number| {
            match number.strip_prefix('x') {
                Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
                None => number.parse(),
            }
            .ok()
            .and_then(char::from_u32)
            .filter(|c| is_character(*c))
        });
        match (number, reference) {
            (Some(number), _) => number,
            (None, "lt") => Some('<'),
            (None, "gt") => Some('>'),
            (None, "amp") => Some('&'),
            (None, "quot") => Some('"'),
            (None, "apos") => Some('\''),
            (None, _) => None,
        }
        .ok_or_else(|| self.error(format!("`&{};` stands for nothing", shown(reference))))
    }

    /// Elements are of CIMI, of StratusLab, or don't say.
    fn is_known(&self, start: &BytesStart<'_>) -> Result<()> {
        let (namespace, _) = self.events.resolver().resolve_element(start.name());
        let problem = match namespace {
            ResolveResult::Unbound => return Ok(()),
            ResolveResult::Bound(namespace) => {
                let namespace: &str = namespace.as_ref();
                if [uri::CIMI, uri::STRATUSLAB].contains(&namespace.trim_end_matches('/')) {
                    return Ok(());
                }
                format!(
                    "elements of the namespace `{}` are not known; it must be `{}`",
                    shown(namespace),
                    uri::CIMI
                )
            }
            ResolveResult::Unknown(prefix) => {
                format!("the prefix `{}` is not declared", shown(&prefix))
            }
        };
        Err(self.error(problem))
    }

    /// What is in an element whose start tag has been read, up to its end tag.
    fn element(&mut self, start: &BytesStart<'_>, mut content: Content) -> Result<Value> {
        self.depth += 1;
        if self.depth > DEPTH_AT_MOST {
            return Err(self.error(format!("elements nested deeper than {DEPTH_AT_MOST}")));
        }
        let mut members = Map::new();
        self.tag(start, &mut members)?;
        // A resource or a collection in the place of the reference to it.
        if let Some(Value::String(uri)) = members.get("resourceURI")
            && let Content::Value(Shape::Ref(_) | Shape::Collection(_)) = content
        {
            let name = uri.rsplit('/').next().unwrap_or_default();
            content = match name.strip_suffix("Collection") {
                Some(name) => Kind::from_name(name).map_or(content, Content::Collection),
                None => Kind::from_name(name).map_or(content, Content::Resource),
            };
        }
        if let Content::Value(Shape::Struct(fields)) = content {
            for field in fields.iter().filter(|field| field.place == Place::Tag) {
                if let Some(value) = members.get_mut(field.name)
                    && let Value::String(text) = value
                {
                    *value = single(&field.shape, text);
                }
            }
        }
        let mut between = Between::default();
        loop {
            match self.token()? {
                Token::Start(child) => self.child(&child, content, &mut members)?,
                Token::Text(text) => between.push(text, true),
                Token::Solid(text) => between.push(text, false),
                Token::End => break,
                Token::Eof => return Err(self.error("the body ends before its root does")),
            }
        }
        self.depth -= 1;
        let text = between.trimmed();
        if let Content::Value(Shape::Struct(fields)) = content
            && let Some(field) = fields.iter().find(|field| field.place == Place::Content)
            && !text.is_empty()
        {
            members.insert(field.name.to_owned(), text.into());
            return Ok(Value::Object(members));
        }
        if members.is_empty() {
            return Ok(match content {
                Content::Value(Shape::Map) => Value::String(between.text.into_owned()),
                Content::Value(shape) => single(&shape, text),
                Content::Unknown => Value::String(text.to_owned()),
                _ if text.is_empty() => Value::Object(members),
                _ => return Err(self.error(format!("<{}> has text", shown_name(start)))),
            });
        }
        if !text.is_empty() {
            return Err(self.error(format!(
                "<{}> has text beside elements or attributes",
                shown_name(start)
            )));
        }
        Ok(Value::Object(members))
    }

    /// The attributes of a start tag, as members.
    fn tag(&self, start: &BytesStart<'_>, members: &mut Map<String, Value>) -> Result<()> {
        for (count, attribute) in start.attributes().enumerate() {
            if count == TAG_AT_MOST {
                return Err(self.error(format!(
                    "more than {TAG_AT_MOST} attributes of one element are not read"
                )));
            }
            let wrong = |error: &dyn std::fmt::Display| {
                self.error(format!(
                    "the attributes of <{}> are not XML: {error}",
                    shown_name(start)
                ))
            };
            let attribute = attribute.map_err(|error| wrong(&error))?;
            let name: &str = attribute.key.as_ref();
            // Declarations of namespaces, `xsi:type` and the like say nothing that counts here.
            if name == "xmlns" || name.contains(':') {
                continue;
            }
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| wrong(&error))?;
            if let Some(other) = value.chars().find(|c| !is_character(*c)) {
                return Err(self.error(format!(
                    "the character U+{:04X} can't be in XML",
                    u32::from(other)
                )));
            }
            members.insert(name.to_owned(), value.into_owned().into());
        }
        Ok(())
    }

    /// An element within another.
    fn child(
        &mut self,
        start: &BytesStart<'_>,
        content: Content,
        members: &mut Map<String, Value>,
    ) -> Result<()> {
        let local = start.local_name();
        let element: &str = local.as_ref();
        if let Content::Collection(kind) = content
            && element == kind.name()
        {
            let mut member = self.element(start, Content::Resource(kind))?;
            if let Value::Object(member) = &mut member {
                member.insert("resourceURI".to_owned(), describe(kind).uri().into());
            }
            return self.add(members, describe(kind).member_key, member);
        }
        match content.attribute(element) {
            Some(field) => match field.shape {
                Shape::Map => {
                    let (key, value) = self.entry(start)?;
                    let entries = members
                        .entry(field.name)
                        .or_insert_with(|| Value::Object(Map::new()));
                    match entries {
                        Value::Object(entries) if !entries.contains_key(&key) => {
                            entries.insert(key, value);
                            Ok(())
                        }
                        _ => Err(self.twice(&format!("{element} {key}"))),
                    }
                }
                Shape::Array(inner) => {
                    let value = self.element(start, Content::Value(*inner))?;
                    self.add(members, field.name, value)
                }
                shape => {
                    let value = self.element(start, Content::Value(shape))?;
                    self.set(members, field.name, value)
                }
            },
            None => {
                let value = self.element(start, Content::Unknown)?;
                self.set(members, element, value)
            }
        }
    }

    /// `<property key="k">v</property>`
    fn entry(&mut self, start: &BytesStart<'_>) -> Result<(String, Value)> {
        let mut tag = Map::new();
        self.tag(start, &mut tag)?;
        let Some(Value::String(key)) = tag.remove("key") else {
            return Err(self.error(format!("<{}> has no `key`", shown_name(start))));
        };
        let bare = BytesStart::new("property");
        Ok((key, self.element(&bare, Content::Value(Shape::Map))?))
    }

    fn add(&self, members: &mut Map<String, Value>, name: &str, value: Value) -> Result<()> {
        match members
            .entry(name)
            .or_insert_with(|| Value::Array(Vec::new()))
        {
            Value::Array(all) => {
                all.push(value);
                Ok(())
            }
            _ => Err(self.twice(name)),
        }
    }

    fn set(&self, members: &mut Map<String, Value>, name: &str, value: Value) -> Result<()> {
        if members.insert(name.to_owned(), value).is_some() {
            return Err(self.twice(name));
        }
        Ok(())
    }

    fn twice(&self, name: &str) -> XmlError {
        self.error(format!("<{}> is there twice", shown(name)))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

fn shown_name(start: &BytesStart<'_>) -> String {
    shown(start.local_name().as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::{check, check_action};

    fn refused(text: &str) -> String {
        let outcome = read(text, Expected::Creation(Kind::Machine));
        outcome.expect_err(text).to_string()
    }

    #[test]
    fn the_creation_of_the_reference_says_the_same_in_both_forms() {
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
            <MachineCreate xmlns="http://schemas.dmtf.org/cimi/1">
              <name>web-2</name>
              <property key="group">prod</property>
              <machineTemplate href="MachineTemplate/small">
                <initialState>STOPPED</initialState>
                <machineConfig href="MachineConfiguration/small">
                  <memory>1048576</memory>
                </machineConfig>
                <machineImage href="MachineImage/debian"/>
                <volumeTemplate>
                  <initialLocation>/dev/vdb</initialLocation>
                  <volumeTemplate>
                    <volumeConfig><capacity>5000000</capacity></volumeConfig>
                  </volumeTemplate>
                </volumeTemplate>
                <userData>IyEvYmluL3NoCg==</userData>
              </machineTemplate>
            </MachineCreate>"#;
        let json = json!({"name": "web-2", "properties": {"group": "prod"},
            "machineTemplate": {"href": "MachineTemplate/small",
                "machineConfig": {"href": "MachineConfiguration/small", "memory": 1_048_576},
                "machineImage": {"href": "MachineImage/debian"},
                "initialState": "STOPPED",
                "volumeTemplates": [{"initialLocation": "/dev/vdb",
                    "volumeTemplate": {"volumeConfig": {"capacity": 5_000_000}}}],
                "userData": "IyEvYmluL3NoCg=="}});
        let value = read(xml, Expected::Creation(Kind::Machine)).unwrap();
        assert_eq!(value, json);
        assert!(check(Kind::Machine, &value).is_ok());
    }

    #[test]
    fn what_clients_in_use_send_is_read() {
        let image = json!({"name": "i", "machineImageTemplate": {"imageLocation": "https://x/y"}});
        for xml in [
            "<MachineImageCreate><machineImageTemplate><imageLocation>https://x/y</imageLocation>\
             </machineImageTemplate><name> i\n</name></MachineImageCreate>",
            "<c:machineImageCreate xmlns:c='http://schemas.dmtf.org/cimi/1/'><c:name>i</c:name>\
             <c:machineImageTemplate><c:imageLocation>https://x/y</c:imageLocation>\
             </c:machineImageTemplate></c:machineImageCreate>",
        ] {
            let value = read(xml, Expected::Creation(Kind::MachineImage)).unwrap();
            assert_eq!(value, image, "{xml}");
            let checked = check(Kind::MachineImage, &value).unwrap();
            assert_eq!(checked["imageLocation"], "https://x/y");
        }
        let flat = "<Machine><machineTemplate><volume href='Volume/1'><initialLocation>/dev/vdb\
            </initialLocation></volume><machineImage href='MachineImage/x'/></machineTemplate></Machine>";
        let value = read(flat, Expected::Creation(Kind::Machine)).unwrap();
        let checked = check(Kind::Machine, &value).unwrap();
        assert_eq!(
            checked["machineTemplate"]["volumes"],
            json!([{"initialLocation": "/dev/vdb", "volume": {"href": "Volume/1"}}])
        );
        let member = "<MachineVolume xmlns='http://schemas.dmtf.org/cimi/1'>\
            <initialLocation>/dev/vdb</initialLocation><volume href='Volume/a1'/></MachineVolume>";
        let value = read(member, Expected::Creation(Kind::MachineVolume)).unwrap();
        assert!(check(Kind::MachineVolume, &value).is_ok());
        let action = "<Action xmlns='http://schemas.dmtf.org/cimi/1'>\
            <action>http://schemas.dmtf.org/cimi/1/action/stop</action><force>true</force>\
            <property key='reason'>maintenance</property></Action>";
        let value = read(action, Expected::Action).unwrap();
        let checked = check_action("stop", &value).unwrap();
        assert_eq!(
            Value::Object(checked),
            json!({"force": true, "properties": {"reason": "maintenance"}})
        );
    }

    #[test]
    fn texts_are_trimmed_of_blanks_that_were_written_as_such() {
        let name = |xml: &str| {
            let xml = format!("<Machine><name>{xml}</name></Machine>");
            read(&xml, Expected::Change(Kind::Machine)).unwrap()["name"].clone()
        };
        assert_eq!(name("\n  a <!-- x --> b\r\n "), "a  b");
        assert_eq!(name(" &#32;a&#x20;"), " a ");
        assert_eq!(name("<![CDATA[ <a> ]]>"), " <a> ");
        assert_eq!(name("&lt;&amp;&gt;&quot;&apos;&#xe9;"), "<&>\"'é");
        assert_eq!(name(" "), "");
        let property = "<Machine><property key='a&#10;b'> v </property></Machine>";
        assert_eq!(
            read(property, Expected::Change(Kind::Machine)).unwrap(),
            json!({"properties": {"a\nb": " v "}})
        );
    }

    #[test]
    fn what_is_not_known_is_left_for_the_checks() {
        let xml = "<Volume><colour shade='dark'>red</colour><capacity>much</capacity></Volume>";
        assert!(read(xml, Expected::Change(Kind::Volume)).is_err());
        let xml = "<Volume><colour><shade>dark</shade></colour><capacity>much</capacity></Volume>";
        assert_eq!(
            read(xml, Expected::Change(Kind::Volume)).unwrap(),
            json!({"colour": {"shade": "dark"}, "capacity": "much"})
        );
    }

    #[test]
    fn tricks_are_refused() {
        for (text, why) in [
            ("", "no element"),
            ("<Volume/>", "must be <Machine>"),
            ("<Machine>", "ends before"),
            ("<Machine></Volume>", "not XML"),
            ("<Machine/><Machine/>", "after the end"),
            ("<Machine/>x", "after the end"),
            ("<Machine>x</Machine>", "has text"),
            ("<Machine><name>a</name><name>b</name></Machine>", "twice"),
            (
                "<Machine><property key='a'>1</property><property key='a'>2</property></Machine>",
                "twice",
            ),
            ("<Machine><property>1</property></Machine>", "no `key`"),
            ("<Machine a='1' a='2'/>", "not XML"),
            (
                "<Machine><name>&boom;</name></Machine>",
                "stands for nothing",
            ),
            ("<Machine><name>&#0;</name></Machine>", "stands for nothing"),
            (
                "<Machine><name>&#xD800;</name></Machine>",
                "stands for nothing",
            ),
            ("<Machine><name>a&b</name></Machine>", "not XML"),
            ("<Machine><name>\u{1}</name></Machine>", "U+0001"),
            (
                "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><Machine/>",
                "type declarations",
            ),
            (
                "<!DOCTYPE lolz [<!ENTITY lol 'lol'><!ENTITY lol2 '&lol;&lol;'>]><Machine><name>&lol2;</name></Machine>",
                "type declarations",
            ),
            (
                "<Machine xmlns='http://schemas.dmtf.org/cimi/2'/>",
                "namespace",
            ),
            ("<x:Machine/>", "prefix"),
            (
                "<Machine><name xmlns='urn:x'>a</name></Machine>",
                "namespace",
            ),
        ] {
            let problem = refused(text);
            assert!(problem.contains(why), "{text}: {problem}");
        }
        let deep = format!("<Machine>{}", "<a>".repeat(100_000));
        assert!(refused(&deep).contains("deeper"));
        let many = format!("<Machine>{}</Machine>", "<operation/>".repeat(50_000));
        assert!(refused(&many).contains("elements"));
        let wide: String = (0..60_000).map(|n| format!(" a{n}=''")).collect();
        assert!(refused(&format!("<Machine{wide}/>")).contains("attributes"));
        let prefixes: String = (0..60_000)
            .map(|n| format!(" xmlns:a{n}='urn:x'"))
            .collect();
        refused(&format!("<Machine{prefixes}/>"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in r#"[<>/&;#x="' a-c!\[\]?-]{0,80}"#) {
            let _ = read(&text, Expected::Creation(Kind::Machine));
            let _ = read(&format!("<Machine>{text}</Machine>"), Expected::Change(Kind::Machine));
        }
    }
}
