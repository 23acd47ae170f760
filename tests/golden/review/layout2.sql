BEGIN TRANSACTION;
CREATE TABLE campaign (
	id VARCHAR(128) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	overlap INTEGER NOT NULL, 
	lease_seconds INTEGER NOT NULL, 
	skip_policy VARCHAR(16) NOT NULL, 
	aggregation VARCHAR(16) NOT NULL, 
	spec TEXT NOT NULL, 
	failures TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_at FLOAT NOT NULL, 
	closed_at FLOAT, 
	PRIMARY KEY (id), 
	CONSTRAINT campaign_kind CHECK (kind IN ('filter', 'pairwise', 'likert')), 
	CONSTRAINT campaign_state CHECK (state IN ('preparing', 'open', 'closed')), 
	CONSTRAINT campaign_overlap CHECK (overlap >= 1)
);
INSERT INTO "campaign" VALUES('clips','filter',2,300,'count','majority','{"campaign_id":"clips","form":"filter","title":"clips","guidelines":"Look at the subject.","reasons":["blur","text"],"skip_reasons":["does not play","cannot tell","other"],"rubric":[],"overlap":2,"lease_seconds":300,"skip_policy":"count","aggregation":"majority","order":"finish_first","gold_rate":0.0,"seed":0,"carry":true,"next_command":"fulcrum run"}','[]','open',1000.0,NULL);
INSERT INTO "campaign" VALUES('closed','pairwise',1,300,'count','majority','{"campaign_id":"closed","form":"consis","title":"closed","guidelines":"Look at the subject.","reasons":[],"skip_reasons":["does not play","cannot tell","other"],"rubric":[],"overlap":1,"lease_seconds":300,"skip_policy":"count","aggregation":"majority","order":"finish_first","gold_rate":0.0,"seed":0,"carry":true,"next_command":"fulcrum run"}','[]','closed',1000.0,3000.0);
INSERT INTO "campaign" VALUES('open','pairwise',1,300,'count','majority','{"campaign_id":"open","form":"consis","title":"open","guidelines":"Look at the subject.","reasons":[],"skip_reasons":["does not play","cannot tell","other"],"rubric":[],"overlap":1,"lease_seconds":300,"skip_policy":"count","aggregation":"majority","order":"finish_first","gold_rate":0.0,"seed":0,"carry":true,"next_command":"fulcrum run"}','[]','open',1000.0,NULL);
CREATE TABLE draft (
	item_id VARCHAR(64) NOT NULL, 
	person_id VARCHAR(64) NOT NULL, 
	scores TEXT NOT NULL, 
	saved_at FLOAT NOT NULL, 
	PRIMARY KEY (item_id, person_id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(person_id) REFERENCES person (id)
);
CREATE TABLE event (
	id INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	actor VARCHAR(128) NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	campaign_id VARCHAR(128), 
	item_id VARCHAR(64), 
	detail TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "event" VALUES(1,1000.0,'ada','joined',NULL,NULL,'{"role": "lead"}');
INSERT INTO "event" VALUES(2,1000.0,'ben','joined',NULL,NULL,'{"role": "annotator"}');
INSERT INTO "event" VALUES(3,1000.0,'system','created','clips',NULL,'{}');
INSERT INTO "event" VALUES(4,1000.0,'system','opened','clips',NULL,'{"items": 6}');
INSERT INTO "event" VALUES(5,1000.0,'system','created','closed',NULL,'{}');
INSERT INTO "event" VALUES(6,1000.0,'system','opened','closed',NULL,'{"items": 3}');
INSERT INTO "event" VALUES(7,1000.0,'system','created','open',NULL,'{}');
INSERT INTO "event" VALUES(8,1000.0,'system','opened','open',NULL,'{"items": 3}');
INSERT INTO "event" VALUES(9,2001.0,'ada','answer','clips','24f98f92968e357eb25be86e11f7cd00','{"response": "423076b22c39ec56e241d18c5086c990", "standing": "counted"}');
INSERT INTO "event" VALUES(10,2001.0,'ada','answer','clips','de81aad4ff22781da58ea3e2d855f4c3','{"response": "68b05cc0d25b96b898e691756e2425ec", "standing": "counted"}');
INSERT INTO "event" VALUES(11,2001.0,'ada','answer','clips','35c03bbf7dfd79dca518f8cb1a5572d1','{"response": "4f700e3b1ad0065bd1af7954be42ba62", "standing": "counted"}');
INSERT INTO "event" VALUES(12,2001.0,'ada','answer','clips','0db06b50e5478de3cd99f13cd5709d1d','{"response": "460058547cfc3bee7bf5b870ae2c9670", "standing": "counted"}');
INSERT INTO "event" VALUES(13,2001.0,'ada','answer','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','{"response": "3effcd3ab7cc690ffd65e37945276949", "standing": "counted"}');
INSERT INTO "event" VALUES(14,2001.0,'ada','answer','clips','84af5dee7681f6747811ed7e2c491704','{"response": "6396b6899e37bd0b29c6c34b8392476f", "standing": "counted"}');
INSERT INTO "event" VALUES(15,2501.0,'ben','answer','clips','24f98f92968e357eb25be86e11f7cd00','{"response": "999108bc8251441751cf3f5313a1e948", "standing": "counted"}');
INSERT INTO "event" VALUES(16,2501.0,'ben','answer','clips','de81aad4ff22781da58ea3e2d855f4c3','{"response": "944b6872afd0e16d7a0f81e0a9d4bfe9", "standing": "counted"}');
INSERT INTO "event" VALUES(17,2501.0,'ben','answer','clips','35c03bbf7dfd79dca518f8cb1a5572d1','{"response": "b14de847c591864647b9580e7664e4af", "standing": "counted"}');
INSERT INTO "event" VALUES(18,2501.0,'ben','answer','clips','0db06b50e5478de3cd99f13cd5709d1d','{"response": "faa9450374be42d70533b65e5e71b075", "standing": "counted"}');
INSERT INTO "event" VALUES(19,2501.0,'ben','answer','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','{"response": "0cd84f605f502e03ca8e77de401fad02", "standing": "counted"}');
INSERT INTO "event" VALUES(20,2501.0,'ben','answer','clips','84af5dee7681f6747811ed7e2c491704','{"response": "50b9f615f507cf11941d0e0ccb4d1c85", "standing": "counted"}');
INSERT INTO "event" VALUES(21,2002.0,'ada','answer','closed','788144bf63c29ed5f8ff2da23d1d0f09','{"response": "4aaa7c52165a75b463ab0da12cabeaf6", "standing": "counted"}');
INSERT INTO "event" VALUES(22,2002.0,'ada','answer','closed','efb03e2c78e87e91ecd9c171f5b9f427','{"response": "667432a39cc9c29f9509ca5444d2ae8d", "standing": "counted"}');
INSERT INTO "event" VALUES(23,2002.0,'ada','answer','closed','7d5c433e18f896b5aab7e39f8e704960','{"response": "20709a21a51c1666a504b7c5b7729b66", "standing": "counted"}');
INSERT INTO "event" VALUES(24,2002.0,'ada','answer','open','7cde87f29fa1118a458919e84b583fbb','{"response": "4401e54d10a141b25cd08ca510f3459b", "standing": "counted"}');
INSERT INTO "event" VALUES(25,3000.0,'ada','closed','closed',NULL,'{"in_review": 0}');
CREATE TABLE item (
	id VARCHAR(64) NOT NULL, 
	campaign_id VARCHAR(128) NOT NULL, 
	external_id VARCHAR(256) NOT NULL, 
	payload TEXT NOT NULL, 
	payload_digest VARCHAR(64) NOT NULL, 
	stratum VARCHAR(256) NOT NULL, 
	inclusion_probability FLOAT NOT NULL, 
	hidden TEXT DEFAULT '{}' NOT NULL, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	uncertainty FLOAT DEFAULT '0' NOT NULL, 
	shuffle BIGINT NOT NULL, 
	gold TEXT, 
	gold_withdrawn BOOLEAN DEFAULT false NOT NULL, 
	state VARCHAR(16) DEFAULT 'open' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT item_once_per_campaign UNIQUE (campaign_id, external_id), 
	CONSTRAINT item_state CHECK (state IN ('open', 'withdrawn')), 
	FOREIGN KEY(campaign_id) REFERENCES campaign (id)
);
INSERT INTO "item" VALUES('e74c0107eb51ed4bb75dcdb31ecfa92c','clips','clip-0','{"caption": "caption 0", "media": "00000000000000000000000000000000.webm"}','e03932a170999d7605ef60a84b79053f81c468c61706e0cffd89f8f077dfb200','kept',1.0,'{}',0,0.0,251335686,NULL,0,'open');
INSERT INTO "item" VALUES('0db06b50e5478de3cd99f13cd5709d1d','clips','clip-1','{"caption": "caption 1", "media": "00000000000000000000000000000001.webm"}','dc6ef8a3b2e8de684853a95f2c1929b75b97cfce8bef60e1e2e6c3d212afd35f','kept',1.0,'{}',0,0.0,99707295,NULL,0,'open');
INSERT INTO "item" VALUES('24f98f92968e357eb25be86e11f7cd00','clips','clip-2','{"caption": "caption 2", "media": "00000000000000000000000000000002.webm"}','25751d6c6c11c0d3266f5a73c91bb3c9ec956c12482cc9a964f64f02ee078bbf','kept',1.0,'{}',0,0.0,1918383461,NULL,0,'open');
INSERT INTO "item" VALUES('35c03bbf7dfd79dca518f8cb1a5572d1','clips','clip-3','{"caption": "caption 3", "media": "00000000000000000000000000000003.webm"}','29f76bd8e5d744abb53653d0cb1b0a71f1bf961bfcaab5d80c855672ddf18b52','kept',1.0,'{}',0,0.0,85268439,NULL,0,'open');
INSERT INTO "item" VALUES('84af5dee7681f6747811ed7e2c491704','clips','clip-4','{"caption": "caption 4", "media": "00000000000000000000000000000004.webm"}','e29af6a2904df008258333970989d044974d531c172a055425abee12028786c6','kept',1.0,'{}',0,0.0,852558735,NULL,0,'open');
INSERT INTO "item" VALUES('de81aad4ff22781da58ea3e2d855f4c3','clips','clip-5','{"caption": "caption 5", "media": "00000000000000000000000000000005.webm"}','21ecab637147c397b9cdc151502c2e6f4cd0ffc44eac9f7679a2b28aa8a415e6','kept',1.0,'{}',0,0.0,1918638594,NULL,0,'open');
INSERT INTO "item" VALUES('788144bf63c29ed5f8ff2da23d1d0f09','closed','pair-0','{"loser": "0000000000000000000000000000000b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000000a.webm"}','9beb28004292c03f0fee58eb4f87d4b94cf1214fa1f050309f082c1622d9e759','kept',1.0,'{}',0,0.0,1243023597,NULL,0,'open');
INSERT INTO "item" VALUES('7d5c433e18f896b5aab7e39f8e704960','closed','pair-1','{"loser": "0000000000000000000000000000001b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000001a.webm"}','3bb0de5ee9f57026de8a27abacc49b883b21ef2b53335c5786a8f7324329fa2f','kept',1.0,'{}',0,0.0,65371693,NULL,0,'open');
INSERT INTO "item" VALUES('efb03e2c78e87e91ecd9c171f5b9f427','closed','pair-2','{"loser": "0000000000000000000000000000002b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000002a.webm"}','dd28a7db489acc62107775868883431f181ab949e997ad1956443447ee9cede9','kept',1.0,'{}',0,0.0,1543686060,NULL,0,'open');
INSERT INTO "item" VALUES('94177392be3efa5b07dbc851d7ca35d9','open','pair-0','{"loser": "0000000000000000000000000000000b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000000a.webm"}','9beb28004292c03f0fee58eb4f87d4b94cf1214fa1f050309f082c1622d9e759','kept',1.0,'{}',0,0.0,1243023597,NULL,0,'open');
INSERT INTO "item" VALUES('7cde87f29fa1118a458919e84b583fbb','open','pair-1','{"loser": "0000000000000000000000000000001b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000001a.webm"}','3bb0de5ee9f57026de8a27abacc49b883b21ef2b53335c5786a8f7324329fa2f','kept',1.0,'{}',0,0.0,65371693,NULL,0,'open');
INSERT INTO "item" VALUES('2daf775d5747968b0821159f81378d68','open','pair-2','{"loser": "0000000000000000000000000000002b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000002a.webm"}','dd28a7db489acc62107775868883431f181ab949e997ad1956443447ee9cede9','kept',1.0,'{}',0,0.0,1543686060,NULL,0,'open');
CREATE TABLE lease (
	item_id VARCHAR(64) NOT NULL, 
	person_id VARCHAR(64) NOT NULL, 
	side VARCHAR(2) NOT NULL, 
	claimed_at FLOAT NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY (item_id, person_id), 
	CONSTRAINT lease_side CHECK (side IN ('AB', 'BA')), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(person_id) REFERENCES person (id)
);
INSERT INTO "lease" VALUES('24f98f92968e357eb25be86e11f7cd00','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0,2001.0);
INSERT INTO "lease" VALUES('de81aad4ff22781da58ea3e2d855f4c3','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0001,2001.0);
INSERT INTO "lease" VALUES('35c03bbf7dfd79dca518f8cb1a5572d1','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0002,2001.0);
INSERT INTO "lease" VALUES('0db06b50e5478de3cd99f13cd5709d1d','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0003,2001.0);
INSERT INTO "lease" VALUES('e74c0107eb51ed4bb75dcdb31ecfa92c','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0004,2001.0);
INSERT INTO "lease" VALUES('84af5dee7681f6747811ed7e2c491704','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0005,2001.0);
INSERT INTO "lease" VALUES('24f98f92968e357eb25be86e11f7cd00','a51ffa3197f2e7906f08d39118fb8d06','AB',2500.0,2501.0);
INSERT INTO "lease" VALUES('de81aad4ff22781da58ea3e2d855f4c3','a51ffa3197f2e7906f08d39118fb8d06','BA',2500.0001,2501.0);
INSERT INTO "lease" VALUES('35c03bbf7dfd79dca518f8cb1a5572d1','a51ffa3197f2e7906f08d39118fb8d06','BA',2500.0002,2501.0);
INSERT INTO "lease" VALUES('0db06b50e5478de3cd99f13cd5709d1d','a51ffa3197f2e7906f08d39118fb8d06','BA',2500.0003,2501.0);
INSERT INTO "lease" VALUES('e74c0107eb51ed4bb75dcdb31ecfa92c','a51ffa3197f2e7906f08d39118fb8d06','AB',2500.0004,2501.0);
INSERT INTO "lease" VALUES('84af5dee7681f6747811ed7e2c491704','a51ffa3197f2e7906f08d39118fb8d06','AB',2500.0005,2501.0);
INSERT INTO "lease" VALUES('788144bf63c29ed5f8ff2da23d1d0f09','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0,2002.0);
INSERT INTO "lease" VALUES('efb03e2c78e87e91ecd9c171f5b9f427','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0001,2002.0);
INSERT INTO "lease" VALUES('7d5c433e18f896b5aab7e39f8e704960','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0002,2002.0);
INSERT INTO "lease" VALUES('7cde87f29fa1118a458919e84b583fbb','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0,2002.0);
CREATE TABLE meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','2');
CREATE TABLE person (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	active BOOLEAN NOT NULL, 
	token_digest VARCHAR(64), 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT person_role CHECK (role IN ('annotator', 'lead', 'admin', 'script')), 
	UNIQUE (name), 
	UNIQUE (token_digest)
);
INSERT INTO "person" VALUES('47192de7c2d450e9b5f3a79eb5f259a1','ada','lead',1,NULL,1000.0);
INSERT INTO "person" VALUES('a51ffa3197f2e7906f08d39118fb8d06','ben','annotator',1,NULL,1000.0);
CREATE TABLE response (
	id VARCHAR(64) NOT NULL, 
	campaign_id VARCHAR(128) NOT NULL, 
	item_id VARCHAR(64) NOT NULL, 
	person_id VARCHAR(64) NOT NULL, 
	idempotency_key VARCHAR(64) NOT NULL, 
	verdict VARCHAR(16) NOT NULL, 
	conclusion VARCHAR(16) NOT NULL, 
	reasons TEXT NOT NULL, 
	answer TEXT NOT NULL, 
	side VARCHAR(2) NOT NULL, 
	standing VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	carried BOOLEAN NOT NULL, 
	sequence INTEGER NOT NULL, 
	watched_ms BIGINT, 
	replays INTEGER, 
	submitted_at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT response_once UNIQUE (person_id, idempotency_key), 
	CONSTRAINT response_standing CHECK (standing IN ('counted', 'extra', 'lead', 'set_aside')), 
	CONSTRAINT response_state CHECK (state IN ('live', 'superseded', 'withdrawn')), 
	FOREIGN KEY(campaign_id) REFERENCES campaign (id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(person_id) REFERENCES person (id)
);
INSERT INTO "response" VALUES('423076b22c39ec56e241d18c5086c990','clips','24f98f92968e357eb25be86e11f7cd00','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-2','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,1,NULL,NULL,2001.0);
INSERT INTO "response" VALUES('68b05cc0d25b96b898e691756e2425ec','clips','de81aad4ff22781da58ea3e2d855f4c3','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-5','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,2,NULL,NULL,2001.0);
INSERT INTO "response" VALUES('4f700e3b1ad0065bd1af7954be42ba62','clips','35c03bbf7dfd79dca518f8cb1a5572d1','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-3','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,3,NULL,NULL,2001.0);
INSERT INTO "response" VALUES('460058547cfc3bee7bf5b870ae2c9670','clips','0db06b50e5478de3cd99f13cd5709d1d','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-1','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,4,NULL,NULL,2001.0);
INSERT INTO "response" VALUES('3effcd3ab7cc690ffd65e37945276949','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-0','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,5,NULL,NULL,2001.0);
INSERT INTO "response" VALUES('6396b6899e37bd0b29c6c34b8392476f','clips','84af5dee7681f6747811ed7e2c491704','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-4','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,6,NULL,NULL,2001.0);
INSERT INTO "response" VALUES('999108bc8251441751cf3f5313a1e948','clips','24f98f92968e357eb25be86e11f7cd00','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-2','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,1,NULL,NULL,2501.0);
INSERT INTO "response" VALUES('944b6872afd0e16d7a0f81e0a9d4bfe9','clips','de81aad4ff22781da58ea3e2d855f4c3','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-5','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,2,NULL,NULL,2501.0);
INSERT INTO "response" VALUES('b14de847c591864647b9580e7664e4af','clips','35c03bbf7dfd79dca518f8cb1a5572d1','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-3','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,3,NULL,NULL,2501.0);
INSERT INTO "response" VALUES('faa9450374be42d70533b65e5e71b075','clips','0db06b50e5478de3cd99f13cd5709d1d','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-1','reject','reject','["blur"]','{"choice": "reject"}','BA','counted','live',0,4,NULL,NULL,2501.0);
INSERT INTO "response" VALUES('0cd84f605f502e03ca8e77de401fad02','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-0','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,5,NULL,NULL,2501.0);
INSERT INTO "response" VALUES('50b9f615f507cf11941d0e0ccb4d1c85','clips','84af5dee7681f6747811ed7e2c491704','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-4','reject','reject','["blur"]','{"choice": "reject"}','AB','counted','live',0,6,NULL,NULL,2501.0);
INSERT INTO "response" VALUES('4aaa7c52165a75b463ab0da12cabeaf6','closed','788144bf63c29ed5f8ff2da23d1d0f09','47192de7c2d450e9b5f3a79eb5f259a1','closed-pair-0','winner','winner','[]','{"choice": "winner", "rest_same": true}','BA','counted','live',0,1,NULL,NULL,2002.0);
INSERT INTO "response" VALUES('667432a39cc9c29f9509ca5444d2ae8d','closed','efb03e2c78e87e91ecd9c171f5b9f427','47192de7c2d450e9b5f3a79eb5f259a1','closed-pair-2','winner','winner','[]','{"choice": "winner", "rest_same": true}','BA','counted','live',0,2,NULL,NULL,2002.0);
INSERT INTO "response" VALUES('20709a21a51c1666a504b7c5b7729b66','closed','7d5c433e18f896b5aab7e39f8e704960','47192de7c2d450e9b5f3a79eb5f259a1','closed-pair-1','winner','winner','[]','{"choice": "winner", "rest_same": true}','AB','counted','live',0,3,NULL,NULL,2002.0);
INSERT INTO "response" VALUES('4401e54d10a141b25cd08ca510f3459b','open','7cde87f29fa1118a458919e84b583fbb','47192de7c2d450e9b5f3a79eb5f259a1','open-pair-1','winner','winner','[]','{"choice": "winner", "rest_same": true}','AB','counted','live',0,1,NULL,NULL,2002.0);
CREATE TABLE session (
	token_digest VARCHAR(64) NOT NULL, 
	person_id VARCHAR(64) NOT NULL, 
	csrf VARCHAR(64) NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY (token_digest), 
	FOREIGN KEY(person_id) REFERENCES person (id)
);
CREATE INDEX event_by_campaign ON event (campaign_id, id);
CREATE INDEX item_by_payload ON item (payload_digest);
CREATE INDEX item_by_uncertainty ON item (campaign_id, state, priority DESC, uncertainty DESC, shuffle);
CREATE INDEX item_in_order ON item (campaign_id, state, priority DESC, shuffle);
CREATE INDEX lease_by_person ON lease (person_id, expires_at);
CREATE INDEX lease_by_expiry ON lease (expires_at);
CREATE INDEX response_by_campaign ON response (campaign_id, state, item_id, standing, conclusion);
CREATE INDEX response_by_item ON response (item_id, state, standing);
CREATE INDEX response_by_person ON response (person_id, campaign_id, sequence);
CREATE UNIQUE INDEX one_live_response_per_item_and_person ON response (item_id, person_id) WHERE state = 'live' AND standing != 'lead';
COMMIT;
