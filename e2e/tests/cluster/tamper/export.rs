//! A real export, record by record, in the hands of somebody who may change all of it.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testimony_core::evidence::note::SignedNote;

/// A place in a stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub sid: String,
    pub seq: u64,
}

/// One log record with its Resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub resource: Value,
    pub log: Value,
    /// The body's fields; empty: it is no record of Testimony.
    fields: BTreeMap<String, String>,
}

impl Entry {
    fn new(resource: &Value, log: &Value) -> Self {
        let body = log.pointer("/body/stringValue").and_then(Value::as_str).unwrap_or_default();
        let fields = serde_json::from_str(body).unwrap_or_default();
        Self { resource: resource.clone(), log: log.clone(), fields }
    }

    /// A field of the body, or the empty string.
    pub fn field(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    /// Its place, if it is sealed.
    pub fn place(&self) -> Option<Place> {
        Some(Place { sid: self.fields.get("sid")?.clone(), seq: self.field("seq").parse().ok()? })
    }

    /// Whether it stands at or behind a place of the same stream.
    pub fn is_from(&self, from: &Place) -> bool {
        self.place().is_some_and(|place| place.sid == from.sid && place.seq >= from.seq)
    }

    /// The signed note of a head.
    pub fn note(&self) -> Option<SignedNote> {
        let note = STANDARD.decode(self.fields.get("note")?).ok()?;
        SignedNote::parse(&String::from_utf8(note).ok()?).ok()
    }

    /// Its stream.
    pub fn sid(&self) -> String {
        self.note().map_or_else(|| self.field("sid").to_owned(), |note| note.checkpoint.origin)
    }

    /// The canonical text that is sealed. Keys and values are ASCII, so JSON with sorted keys is the canonical form.
    pub fn body(&self) -> String {
        json!(self.fields).to_string()
    }

    /// Changes a field as somebody would who knows what he does: what stands beside the body goes with it.
    pub fn set(&mut self, key: &str, value: Option<&str>) {
        let old = match value {
            Some(value) => self.fields.insert(key.to_owned(), value.to_owned()),
            None => self.fields.remove(key),
        };
        self.log["body"]["stringValue"] = json!(self.body());
        let new = value.unwrap_or_default();
        match key {
            "t0" => self.log["timeUnixNano"] = json!(new),
            "seq" => {
                let number = new.parse::<u64>().unwrap_or_default() + 1;
                self.set_attribute("audit.sequence.number", json!({"intValue": number.to_string()}));
            }
            _ => {
                let old = old.unwrap_or_default();
                for attribute in self.log["attributes"].as_array_mut().into_iter().flatten() {
                    for kind in ["stringValue", "intValue"] {
                        if attribute["value"][kind] == old.as_str() {
                            attribute["value"] = json!({kind: new});
                        }
                    }
                }
            }
        }
    }

    /// Takes all fields away but these.
    pub fn keep(&mut self, keys: &[&str]) {
        self.fields.retain(|key, _| keys.contains(&key.as_str()));
    }

    /// Changes what stands beside the body alone.
    pub fn set_attribute(&mut self, name: &str, value: Value) {
        set_attribute(&mut self.log, name, value);
    }

    /// Changes an attribute of its Resource.
    pub fn set_resource(&mut self, name: &str, value: &str) {
        set_attribute(&mut self.resource, name, json!({"stringValue": value}));
    }

    /// Gives it to another stream, its Resource too.
    pub fn rename(&mut self, sid: &str) {
        let parts = |sid: &str| sid.split('/').map(str::to_owned).collect::<Vec<_>>();
        let renamed = parts(self.field("sid")).into_iter().zip(parts(sid));
        for ((old, new), name) in renamed.zip(["k8s.cluster.uid", "k8s.namespace.name", "k8s.pod.uid"]) {
            if old != new {
                self.set_resource(name, &new);
            }
        }
        self.set("sid", Some(sid));
    }
}

fn set_attribute(owner: &mut Value, name: &str, value: Value) {
    let attributes = owner["attributes"].as_array_mut().into_iter().flatten();
    attributes.filter(|attribute| attribute["key"] == name).for_each(|attribute| attribute["value"] = value.clone());
}

/// All of it, in the order of the file.
#[derive(Clone)]
pub struct Export(pub Vec<Entry>);

impl Export {
    /// Reads OTLP JSON lines.
    pub fn parse(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).context("a line of the export")?;
            for logs in list(&line["resourceLogs"]) {
                let records = list(&logs["scopeLogs"]).iter().flat_map(|scope| list(&scope["logRecords"]));
                entries.extend(records.map(|log| Entry::new(&logs["resource"], log)));
            }
        }
        Ok(Self(entries))
    }

    /// As OTLP JSON lines, one for each record.
    pub fn text(&self) -> String {
        let line = |entry: &Entry| {
            let scope = json!({"scope": {}, "logRecords": [entry.log]});
            format!("{}\n", json!({"resourceLogs": [{"resource": entry.resource, "scopeLogs": [scope]}]}))
        };
        self.0.iter().map(line).collect()
    }

    /// The sealed records of a stream in order, each once.
    pub fn sealed(&self, sid: &str) -> Vec<Entry> {
        let sealed = self.0.iter().filter_map(|entry| Some((entry.place()?, entry)));
        let places: BTreeMap<Place, &Entry> = sealed.filter(|(place, _)| place.sid == sid).collect();
        places.into_values().cloned().collect()
    }

    /// The heads of a stream.
    pub fn heads(&self, sid: &str) -> Vec<Entry> {
        let of = |entry: &&Entry| entry.note().is_some_and(|note| note.checkpoint.origin == sid);
        self.0.iter().filter(of).cloned().collect()
    }

    /// With every copy of the records that are `wanted` changed.
    pub fn changed(&self, wanted: impl Fn(&Entry) -> bool, change: impl Fn(&mut Entry)) -> Self {
        let mut changed = self.clone();
        changed.0.iter_mut().filter(|entry| wanted(entry)).for_each(change);
        changed
    }

    /// With the record at a place changed.
    pub fn edited(&self, place: &Place, change: impl Fn(&mut Entry)) -> Self {
        self.changed(|entry| entry.place().as_ref() == Some(place), change)
    }

    /// Without the records that are `unwanted`.
    pub fn without(&self, unwanted: impl Fn(&Entry) -> bool) -> Self {
        Self(self.0.iter().filter(|entry| !unwanted(entry)).cloned().collect())
    }

    /// With more of them.
    pub fn with(&self, more: impl IntoIterator<Item = Entry>) -> Self {
        Self(self.0.iter().cloned().chain(more).collect())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
