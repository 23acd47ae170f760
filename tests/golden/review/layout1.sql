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
	CONSTRAINT campaign_kind CHECK (kind IN ('filter', 'pairwise')), 
	CONSTRAINT campaign_state CHECK (state IN ('preparing', 'open', 'closed')), 
	CONSTRAINT campaign_overlap CHECK (overlap >= 1)
);
INSERT INTO "campaign" VALUES('clips','filter',2,300,'count','majority','{"campaign_id":"clips","form":"filter","title":"clips","guidelines":"Look at the subject.","reasons":["blur","text"],"skip_reasons":["does not play","cannot tell","other"],"overlap":2,"lease_seconds":300,"skip_policy":"count","aggregation":"majority","seed":0,"carry":true,"next_command":"fulcrum run"}','[]','open',1000.0,NULL);
INSERT INTO "campaign" VALUES('closed','pairwise',1,300,'count','majority','{"campaign_id":"closed","form":"consis","title":"closed","guidelines":"Look at the subject.","reasons":[],"skip_reasons":["does not play","cannot tell","other"],"overlap":1,"lease_seconds":300,"skip_policy":"count","aggregation":"majority","seed":0,"carry":true,"next_command":"fulcrum run"}','[]','closed',1000.0,3000.0);
INSERT INTO "campaign" VALUES('open','pairwise',1,300,'count','majority','{"campaign_id":"open","form":"consis","title":"open","guidelines":"Look at the subject.","reasons":[],"skip_reasons":["does not play","cannot tell","other"],"overlap":1,"lease_seconds":300,"skip_policy":"count","aggregation":"majority","seed":0,"carry":true,"next_command":"fulcrum run"}','[]','open',1000.0,NULL);
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
INSERT INTO "event" VALUES(9,2001.0,'ada','answer','clips','de81aad4ff22781da58ea3e2d855f4c3','{"response": "68b05cc0d25b96b898e691756e2425ec", "standing": "counted"}');
INSERT INTO "event" VALUES(10,2001.0,'ada','answer','clips','35c03bbf7dfd79dca518f8cb1a5572d1','{"response": "4f700e3b1ad0065bd1af7954be42ba62", "standing": "counted"}');
INSERT INTO "event" VALUES(11,2001.0,'ada','answer','clips','24f98f92968e357eb25be86e11f7cd00','{"response": "423076b22c39ec56e241d18c5086c990", "standing": "counted"}');
INSERT INTO "event" VALUES(12,2001.0,'ada','answer','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','{"response": "3effcd3ab7cc690ffd65e37945276949", "standing": "counted"}');
INSERT INTO "event" VALUES(13,2001.0,'ada','answer','clips','0db06b50e5478de3cd99f13cd5709d1d','{"response": "460058547cfc3bee7bf5b870ae2c9670", "standing": "counted"}');
INSERT INTO "event" VALUES(14,2001.0,'ada','answer','clips','84af5dee7681f6747811ed7e2c491704','{"response": "6396b6899e37bd0b29c6c34b8392476f", "standing": "counted"}');
INSERT INTO "event" VALUES(15,2501.0,'ben','answer','clips','84af5dee7681f6747811ed7e2c491704','{"response": "50b9f615f507cf11941d0e0ccb4d1c85", "standing": "counted"}');
INSERT INTO "event" VALUES(16,2501.0,'ben','answer','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','{"response": "0cd84f605f502e03ca8e77de401fad02", "standing": "counted"}');
INSERT INTO "event" VALUES(17,2501.0,'ben','answer','clips','35c03bbf7dfd79dca518f8cb1a5572d1','{"response": "b14de847c591864647b9580e7664e4af", "standing": "counted"}');
INSERT INTO "event" VALUES(18,2501.0,'ben','answer','clips','de81aad4ff22781da58ea3e2d855f4c3','{"response": "944b6872afd0e16d7a0f81e0a9d4bfe9", "standing": "counted"}');
INSERT INTO "event" VALUES(19,2501.0,'ben','answer','clips','24f98f92968e357eb25be86e11f7cd00','{"response": "999108bc8251441751cf3f5313a1e948", "standing": "counted"}');
INSERT INTO "event" VALUES(20,2501.0,'ben','answer','clips','0db06b50e5478de3cd99f13cd5709d1d','{"response": "faa9450374be42d70533b65e5e71b075", "standing": "counted"}');
INSERT INTO "event" VALUES(21,2002.0,'ada','answer','closed','788144bf63c29ed5f8ff2da23d1d0f09','{"response": "4aaa7c52165a75b463ab0da12cabeaf6", "standing": "counted"}');
INSERT INTO "event" VALUES(22,2002.0,'ada','answer','closed','efb03e2c78e87e91ecd9c171f5b9f427','{"response": "667432a39cc9c29f9509ca5444d2ae8d", "standing": "counted"}');
INSERT INTO "event" VALUES(23,2002.0,'ada','answer','closed','7d5c433e18f896b5aab7e39f8e704960','{"response": "20709a21a51c1666a504b7c5b7729b66", "standing": "counted"}');
INSERT INTO "event" VALUES(24,2002.0,'ada','answer','open','94177392be3efa5b07dbc851d7ca35d9','{"response": "6db53b18a693e18cb8aee0480d4a1130", "standing": "counted"}');
INSERT INTO "event" VALUES(25,3000.0,'ada','closed','closed',NULL,'{"in_review": 0}');
CREATE TABLE item (
	id VARCHAR(64) NOT NULL, 
	campaign_id VARCHAR(128) NOT NULL, 
	external_id VARCHAR(256) NOT NULL, 
	payload TEXT NOT NULL, 
	payload_digest VARCHAR(64) NOT NULL, 
	stratum VARCHAR(256) NOT NULL, 
	inclusion_probability FLOAT NOT NULL, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	shuffle BIGINT NOT NULL, 
	gold TEXT, 
	state VARCHAR(16) DEFAULT 'open' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT item_once_per_campaign UNIQUE (campaign_id, external_id), 
	CONSTRAINT item_state CHECK (state IN ('open', 'withdrawn')), 
	FOREIGN KEY(campaign_id) REFERENCES campaign (id)
);
INSERT INTO "item" VALUES('e74c0107eb51ed4bb75dcdb31ecfa92c','clips','clip-0','{"caption": "caption 0", "media": "00000000000000000000000000000000.webm"}','5e06b897dac1260f5d0634c1e103110ec8355834333c8dbcc06c5e76b85e8e00','kept',1.0,0,251335686,NULL,'open');
INSERT INTO "item" VALUES('0db06b50e5478de3cd99f13cd5709d1d','clips','clip-1','{"caption": "caption 1", "media": "00000000000000000000000000000001.webm"}','37b8ac71fe42fdbad0413f30d8c41f94f13c1c5e93290691136fee52adc3111b','kept',1.0,0,99707295,NULL,'open');
INSERT INTO "item" VALUES('24f98f92968e357eb25be86e11f7cd00','clips','clip-2','{"caption": "caption 2", "media": "00000000000000000000000000000002.webm"}','371b196bbacf2b07c2bdf4ee0f906afa92cb0429ee6411e3f3474515892662ab','kept',1.0,0,1918383461,NULL,'open');
INSERT INTO "item" VALUES('35c03bbf7dfd79dca518f8cb1a5572d1','clips','clip-3','{"caption": "caption 3", "media": "00000000000000000000000000000003.webm"}','1d67a24cf3095b966cedef0125b080ee9b162e8fc36ed54332268dc6ff06bf79','kept',1.0,0,85268439,NULL,'open');
INSERT INTO "item" VALUES('84af5dee7681f6747811ed7e2c491704','clips','clip-4','{"caption": "caption 4", "media": "00000000000000000000000000000004.webm"}','e4596548a660211bd2ad893994fbc0008dfc0433e13817ea2224b793b1e3fc3b','kept',1.0,0,852558735,NULL,'open');
INSERT INTO "item" VALUES('de81aad4ff22781da58ea3e2d855f4c3','clips','clip-5','{"caption": "caption 5", "media": "00000000000000000000000000000005.webm"}','1ec45be840a2d2d52164e24dea291474b5bdcc7801179f257dd5727ce2068d3c','kept',1.0,0,1918638594,NULL,'open');
INSERT INTO "item" VALUES('788144bf63c29ed5f8ff2da23d1d0f09','closed','pair-0','{"loser": "0000000000000000000000000000000b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000000a.webm"}','67e2f57fcd93d4a5b4869bf1e3b3e1b39b10779261d52b939ad54bd48496dacf','kept',1.0,0,1243023597,NULL,'open');
INSERT INTO "item" VALUES('7d5c433e18f896b5aab7e39f8e704960','closed','pair-1','{"loser": "0000000000000000000000000000001b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000001a.webm"}','79e75cbe3bc27b3b634ccb8892fb1c81824f86e52874429201b48153cd60772b','kept',1.0,0,65371693,NULL,'open');
INSERT INTO "item" VALUES('efb03e2c78e87e91ecd9c171f5b9f427','closed','pair-2','{"loser": "0000000000000000000000000000002b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000002a.webm"}','49ec5d30ce4bc22b660469d6ae914ef537b1d7656e9912277d0926d3d80f70d4','kept',1.0,0,1543686060,NULL,'open');
INSERT INTO "item" VALUES('94177392be3efa5b07dbc851d7ca35d9','open','pair-0','{"loser": "0000000000000000000000000000000b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000000a.webm"}','67e2f57fcd93d4a5b4869bf1e3b3e1b39b10779261d52b939ad54bd48496dacf','kept',1.0,0,1243023597,NULL,'open');
INSERT INTO "item" VALUES('7cde87f29fa1118a458919e84b583fbb','open','pair-1','{"loser": "0000000000000000000000000000001b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000001a.webm"}','79e75cbe3bc27b3b634ccb8892fb1c81824f86e52874429201b48153cd60772b','kept',1.0,0,65371693,NULL,'open');
INSERT INTO "item" VALUES('2daf775d5747968b0821159f81378d68','open','pair-2','{"loser": "0000000000000000000000000000002b.webm", "prompt": "p", "reference": null, "winner": "0000000000000000000000000000002a.webm"}','49ec5d30ce4bc22b660469d6ae914ef537b1d7656e9912277d0926d3d80f70d4','kept',1.0,0,1543686060,NULL,'open');
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
INSERT INTO "lease" VALUES('de81aad4ff22781da58ea3e2d855f4c3','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0,2001.0);
INSERT INTO "lease" VALUES('35c03bbf7dfd79dca518f8cb1a5572d1','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0001,2001.0);
INSERT INTO "lease" VALUES('24f98f92968e357eb25be86e11f7cd00','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0002,2001.0);
INSERT INTO "lease" VALUES('e74c0107eb51ed4bb75dcdb31ecfa92c','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0003,2001.0);
INSERT INTO "lease" VALUES('0db06b50e5478de3cd99f13cd5709d1d','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0004,2001.0);
INSERT INTO "lease" VALUES('84af5dee7681f6747811ed7e2c491704','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0005,2001.0);
INSERT INTO "lease" VALUES('84af5dee7681f6747811ed7e2c491704','a51ffa3197f2e7906f08d39118fb8d06','AB',2500.0,2501.0);
INSERT INTO "lease" VALUES('e74c0107eb51ed4bb75dcdb31ecfa92c','a51ffa3197f2e7906f08d39118fb8d06','AB',2500.0001,2501.0);
INSERT INTO "lease" VALUES('35c03bbf7dfd79dca518f8cb1a5572d1','a51ffa3197f2e7906f08d39118fb8d06','BA',2500.0002,2501.0);
INSERT INTO "lease" VALUES('de81aad4ff22781da58ea3e2d855f4c3','a51ffa3197f2e7906f08d39118fb8d06','BA',2500.0003,2501.0);
INSERT INTO "lease" VALUES('24f98f92968e357eb25be86e11f7cd00','a51ffa3197f2e7906f08d39118fb8d06','AB',2500.0004,2501.0);
INSERT INTO "lease" VALUES('0db06b50e5478de3cd99f13cd5709d1d','a51ffa3197f2e7906f08d39118fb8d06','BA',2500.0005,2501.0);
INSERT INTO "lease" VALUES('788144bf63c29ed5f8ff2da23d1d0f09','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0,2002.0);
INSERT INTO "lease" VALUES('efb03e2c78e87e91ecd9c171f5b9f427','47192de7c2d450e9b5f3a79eb5f259a1','BA',2000.0001,2002.0);
INSERT INTO "lease" VALUES('7d5c433e18f896b5aab7e39f8e704960','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0002,2002.0);
INSERT INTO "lease" VALUES('94177392be3efa5b07dbc851d7ca35d9','47192de7c2d450e9b5f3a79eb5f259a1','AB',2000.0,2002.0);
CREATE TABLE meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
CREATE TABLE person (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	active BOOLEAN NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT person_role CHECK (role IN ('annotator', 'lead', 'script')), 
	UNIQUE (name)
);
INSERT INTO "person" VALUES('47192de7c2d450e9b5f3a79eb5f259a1','ada','lead',1,1000.0);
INSERT INTO "person" VALUES('a51ffa3197f2e7906f08d39118fb8d06','ben','annotator',1,1000.0);
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
	submitted_at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT response_once UNIQUE (person_id, idempotency_key), 
	CONSTRAINT response_standing CHECK (standing IN ('counted', 'extra', 'lead', 'set_aside')), 
	CONSTRAINT response_state CHECK (state IN ('live', 'superseded', 'withdrawn')), 
	FOREIGN KEY(campaign_id) REFERENCES campaign (id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(person_id) REFERENCES person (id)
);
INSERT INTO "response" VALUES('68b05cc0d25b96b898e691756e2425ec','clips','de81aad4ff22781da58ea3e2d855f4c3','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-5','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,1,NULL,2001.0);
INSERT INTO "response" VALUES('4f700e3b1ad0065bd1af7954be42ba62','clips','35c03bbf7dfd79dca518f8cb1a5572d1','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-3','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,2,NULL,2001.0);
INSERT INTO "response" VALUES('423076b22c39ec56e241d18c5086c990','clips','24f98f92968e357eb25be86e11f7cd00','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-2','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,3,NULL,2001.0);
INSERT INTO "response" VALUES('3effcd3ab7cc690ffd65e37945276949','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-0','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,4,NULL,2001.0);
INSERT INTO "response" VALUES('460058547cfc3bee7bf5b870ae2c9670','clips','0db06b50e5478de3cd99f13cd5709d1d','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-1','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,5,NULL,2001.0);
INSERT INTO "response" VALUES('6396b6899e37bd0b29c6c34b8392476f','clips','84af5dee7681f6747811ed7e2c491704','47192de7c2d450e9b5f3a79eb5f259a1','ada-clip-4','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,6,NULL,2001.0);
INSERT INTO "response" VALUES('50b9f615f507cf11941d0e0ccb4d1c85','clips','84af5dee7681f6747811ed7e2c491704','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-4','reject','reject','["blur"]','{"choice": "reject"}','AB','counted','live',0,1,NULL,2501.0);
INSERT INTO "response" VALUES('0cd84f605f502e03ca8e77de401fad02','clips','e74c0107eb51ed4bb75dcdb31ecfa92c','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-0','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,2,NULL,2501.0);
INSERT INTO "response" VALUES('b14de847c591864647b9580e7664e4af','clips','35c03bbf7dfd79dca518f8cb1a5572d1','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-3','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,3,NULL,2501.0);
INSERT INTO "response" VALUES('944b6872afd0e16d7a0f81e0a9d4bfe9','clips','de81aad4ff22781da58ea3e2d855f4c3','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-5','accept','accept','[]','{"choice": "accept"}','BA','counted','live',0,4,NULL,2501.0);
INSERT INTO "response" VALUES('999108bc8251441751cf3f5313a1e948','clips','24f98f92968e357eb25be86e11f7cd00','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-2','accept','accept','[]','{"choice": "accept"}','AB','counted','live',0,5,NULL,2501.0);
INSERT INTO "response" VALUES('faa9450374be42d70533b65e5e71b075','clips','0db06b50e5478de3cd99f13cd5709d1d','a51ffa3197f2e7906f08d39118fb8d06','ben-clip-1','reject','reject','["blur"]','{"choice": "reject"}','BA','counted','live',0,6,NULL,2501.0);
INSERT INTO "response" VALUES('4aaa7c52165a75b463ab0da12cabeaf6','closed','788144bf63c29ed5f8ff2da23d1d0f09','47192de7c2d450e9b5f3a79eb5f259a1','closed-pair-0','winner','winner','[]','{"choice": "winner", "rest_same": true}','BA','counted','live',0,1,NULL,2002.0);
INSERT INTO "response" VALUES('667432a39cc9c29f9509ca5444d2ae8d','closed','efb03e2c78e87e91ecd9c171f5b9f427','47192de7c2d450e9b5f3a79eb5f259a1','closed-pair-2','winner','winner','[]','{"choice": "winner", "rest_same": true}','BA','counted','live',0,2,NULL,2002.0);
INSERT INTO "response" VALUES('20709a21a51c1666a504b7c5b7729b66','closed','7d5c433e18f896b5aab7e39f8e704960','47192de7c2d450e9b5f3a79eb5f259a1','closed-pair-1','winner','winner','[]','{"choice": "winner", "rest_same": true}','AB','counted','live',0,3,NULL,2002.0);
INSERT INTO "response" VALUES('6db53b18a693e18cb8aee0480d4a1130','open','94177392be3efa5b07dbc851d7ca35d9','47192de7c2d450e9b5f3a79eb5f259a1','open-pair-0','winner','winner','[]','{"choice": "winner", "rest_same": true}','AB','counted','live',0,1,NULL,2002.0);
CREATE TABLE session (
	token_digest VARCHAR(64) NOT NULL, 
	person_id VARCHAR(64) NOT NULL, 
	csrf VARCHAR(64) NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY (token_digest), 
	FOREIGN KEY(person_id) REFERENCES person (id)
);
CREATE INDEX item_by_campaign ON item (campaign_id, state);
CREATE INDEX item_by_payload ON item (payload_digest);
CREATE INDEX lease_by_person ON lease (person_id, expires_at);
CREATE INDEX response_by_item ON response (item_id, state, standing);
CREATE UNIQUE INDEX one_live_response_per_item_and_person ON response (item_id, person_id) WHERE state = 'live' AND standing != 'lead';
CREATE INDEX response_by_person ON response (person_id, campaign_id, sequence);
CREATE INDEX response_by_campaign ON response (campaign_id, state);
COMMIT;
