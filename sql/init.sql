-- Image Classifier: database and tables for a DBA. Safe to run again.
--   mysql -u root -p < sql/init.sql
-- The service also creates and upgrades them itself at its start (MIGRATE_ON_START=true, the default).

CREATE DATABASE IF NOT EXISTS `image_classifier`
  DEFAULT CHARACTER SET utf8mb4
  DEFAULT COLLATE utf8mb4_unicode_ci;

USE `image_classifier`;

-- One classified image, shared by all users; the image itself is not kept.
-- category: social_activities 社交活动, pets 宠物萌照, single_person 单人照片, foods 美食记录,
--           travel_scenery 旅行风景, screenshot 手机截图, idcard 证件照, other 其它
CREATE TABLE IF NOT EXISTS `image_classification_cache` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `category` VARCHAR(50) NOT NULL COMMENT '分类Key（8个预定义类别之一）',
  `confidence` DECIMAL(5,4) NOT NULL COMMENT '置信度(0-1)',
  `description` TEXT DEFAULT NULL COMMENT '图片描述',
  `model_used` VARCHAR(255) NOT NULL COMMENT '使用的模型',
  `model_response` JSON DEFAULT NULL COMMENT '完整模型响应',
  `hit_count` INT UNSIGNED DEFAULT 1 COMMENT '缓存命中次数',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '首次创建时间',
  `last_hit_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP COMMENT '最后命中时间',
  `cost_micros` BIGINT UNSIGNED NOT NULL DEFAULT '0' COMMENT '得到该结果的费用(CURRENCY的百万分之一)',
  `language` VARCHAR(8) DEFAULT NULL COMMENT '描述的语言(zh/en)',
  PRIMARY KEY (`id`),
  UNIQUE KEY `uk_image_hash` (`image_hash`),
  KEY `idx_created_at` (`created_at`),
  KEY `idx_category` (`category`),
  KEY `idx_hit_count` (`hit_count`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='图片分类全局缓存表';

-- What an entry says in another language than its own; no description: a model has none in this one.
CREATE TABLE IF NOT EXISTS `cache_description` (
  `entry_id` BIGINT UNSIGNED NOT NULL COMMENT '缓存条目',
  `language` VARCHAR(8) NOT NULL COMMENT '描述的语言(zh/en)',
  `description` TEXT DEFAULT NULL COMMENT '图片描述',
  `model_used` VARCHAR(255) NOT NULL COMMENT '使用的模型',
  `cost_micros` BIGINT UNSIGNED NOT NULL COMMENT '得到该描述的费用(CURRENCY的百万分之一)',
  `created_at` DATETIME NOT NULL COMMENT '创建时间',
  PRIMARY KEY (`entry_id`, `language`),
  FOREIGN KEY (`entry_id`) REFERENCES `image_classification_cache` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='缓存条目的其它语言描述';

-- One answered request. Times are UTC.
CREATE TABLE IF NOT EXISTS `request_log` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `request_id` VARCHAR(64) NOT NULL COMMENT '请求唯一ID',
  `user_id` VARCHAR(64) COLLATE utf8mb4_bin DEFAULT NULL COMMENT '用户ID/设备ID',
  `ip_address` VARCHAR(45) DEFAULT NULL COMMENT '客户端IP地址',
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希',
  `image_size` INT UNSIGNED DEFAULT NULL COMMENT '图片大小(字节)',
  `category` VARCHAR(50) NOT NULL COMMENT '分类Key（8个类别之一）',
  `confidence` DECIMAL(5,4) NOT NULL COMMENT '置信度',
  `from_cache` TINYINT(1) DEFAULT 0 COMMENT '是否来自缓存(0-否 1-是)',
  `processing_time_ms` INT UNSIGNED DEFAULT NULL COMMENT '处理耗时(毫秒)',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '创建时间',
  `created_date` DATE GENERATED ALWAYS AS (DATE(`created_at`)) STORED COMMENT '日期(便于分区查询)',
  `model` VARCHAR(255) DEFAULT NULL COMMENT '给出该结果的模型',
  PRIMARY KEY (`id`),
  UNIQUE KEY `uk_request_id` (`request_id`),
  KEY `idx_user_id` (`user_id`),
  KEY `idx_ip_address` (`ip_address`),
  KEY `idx_created_date` (`created_date`),
  KEY `idx_from_cache` (`from_cache`),
  KEY `idx_created_at` (`created_at`),
  KEY `idx_category` (`category`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='请求日志表-用于统计分析';

-- Entries that were changed; every process watches for new rows and forgets its copy.
CREATE TABLE IF NOT EXISTS `cache_change` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `changed_at` DATETIME NOT NULL COMMENT '修改时间',
  `by_hand` TINYINT(1) NOT NULL DEFAULT '1' COMMENT '是否人工修改(0-否 1-是)',
  PRIMARY KEY (`id`),
  KEY `idx_changed_at` (`changed_at`),
  KEY `idx_image_hash` (`image_hash`, `changed_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='缓存人工修改记录';

-- A process renews its row each second while others may wait for it; one that has not for three seconds is stalled.
CREATE TABLE IF NOT EXISTS `process_heartbeat` (
  `process_id` VARCHAR(32) NOT NULL COMMENT '进程ID',
  `beat_at` DATETIME(3) NOT NULL COMMENT '最近心跳时间',
  PRIMARY KEY (`process_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='进程心跳';

-- The right to ask the model about one photo: one call for all requests.
CREATE TABLE IF NOT EXISTS `model_call_lease` (
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `owner` VARCHAR(32) NOT NULL COMMENT '持有者进程ID',
  `reserved_micros` BIGINT UNSIGNED NOT NULL DEFAULT '0' COMMENT '预留的费用(CURRENCY的百万分之一)',
  `api_key_id` BIGINT UNSIGNED DEFAULT NULL COMMENT 'API密钥ID',
  PRIMARY KEY (`image_hash`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='模型调用租约（同一图片只调用一次）';

-- Sums for the statistics, written in the transaction of the rows they sum up. Each process adds to one of
-- eight shards, so that few wait for each other; a figure is the sum over all shards.
CREATE TABLE IF NOT EXISTS `stats_period` (
  `period_start` DATETIME NOT NULL COMMENT '时段开始(UTC, 15分钟)',
  `category` VARCHAR(50) NOT NULL COMMENT '分类Key（8个类别之一）',
  `shard` TINYINT UNSIGNED NOT NULL COMMENT '分片',
  `requests` BIGINT UNSIGNED NOT NULL COMMENT '请求数',
  `hits` BIGINT UNSIGNED NOT NULL COMMENT '缓存命中数',
  `processing_time_ms` BIGINT UNSIGNED NOT NULL COMMENT '处理耗时之和(毫秒)',
  `confidence_sum` BIGINT UNSIGNED NOT NULL COMMENT '置信度之和(万分之一)',
  `saved_micros` BIGINT UNSIGNED NOT NULL DEFAULT '0' COMMENT '节省的费用(CURRENCY的百万分之一)',
  PRIMARY KEY (`period_start`, `category`, `shard`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='分时段统计';

-- Sums over all requests of a user.
CREATE TABLE IF NOT EXISTS `stats_user` (
  `user_id` VARCHAR(64) COLLATE utf8mb4_bin NOT NULL COMMENT '用户ID/设备ID',
  `requests` BIGINT UNSIGNED NOT NULL COMMENT '请求数',
  `hits` BIGINT UNSIGNED NOT NULL COMMENT '缓存命中数',
  `first_request_at` DATETIME NOT NULL COMMENT '首次请求时间',
  `last_request_at` DATETIME NOT NULL COMMENT '最后请求时间',
  PRIMARY KEY (`user_id`),
  KEY `idx_requests` (`requests`, `user_id`),
  KEY `idx_last_request_at` (`last_request_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='用户统计';

-- Who was seen on a day, kept as long as the log; and how many they were, which is kept.
CREATE TABLE IF NOT EXISTS `stats_visitor` (
  `day` DATE NOT NULL COMMENT '日期(统计时区)',
  `kind` VARCHAR(4) NOT NULL COMMENT 'user或ip',
  `visitor` VARCHAR(64) COLLATE utf8mb4_bin NOT NULL COMMENT '用户ID或IP地址',
  PRIMARY KEY (`day`, `kind`, `visitor`),
  KEY `idx_visitor` (`visitor`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='每日访客';

CREATE TABLE IF NOT EXISTS `stats_visitor_count` (
  `day` DATE NOT NULL COMMENT '日期(统计时区)',
  `kind` VARCHAR(4) NOT NULL COMMENT 'user或ip',
  `shard` TINYINT UNSIGNED NOT NULL COMMENT '分片',
  `visitors` BIGINT UNSIGNED NOT NULL COMMENT '人数',
  PRIMARY KEY (`day`, `kind`, `shard`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='每日访客数';

-- The number of cached images and the sum of their hit_count.
CREATE TABLE IF NOT EXISTS `stats_cache` (
  `shard` TINYINT UNSIGNED NOT NULL COMMENT '分片',
  `images` BIGINT NOT NULL COMMENT '图片数',
  `hits` BIGINT NOT NULL COMMENT '命中次数之和',
  `saved_micros` BIGINT UNSIGNED NOT NULL DEFAULT '0' COMMENT '节省的费用(CURRENCY的百万分之一)',
  PRIMARY KEY (`shard`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='缓存统计';

-- How many answers failed for a reason that was not the caller's.
CREATE TABLE IF NOT EXISTS `stats_error` (
  `period_start` DATETIME NOT NULL COMMENT '时段开始(UTC, 15分钟)',
  `code` VARCHAR(64) NOT NULL COMMENT '错误码',
  `shard` TINYINT UNSIGNED NOT NULL COMMENT '分片',
  `errors` BIGINT UNSIGNED NOT NULL COMMENT '错误数',
  PRIMARY KEY (`period_start`, `code`, `shard`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='分时段错误数';

-- What the sums were built for, such as their time zone.
CREATE TABLE IF NOT EXISTS `stats_state` (
  `name` VARCHAR(32) NOT NULL COMMENT '名称',
  `value` VARCHAR(64) NOT NULL COMMENT '值',
  PRIMARY KEY (`name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='统计状态';

-- An account of the signed-in side.
CREATE TABLE IF NOT EXISTS `users` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `username` VARCHAR(64) NOT NULL COMMENT '用户名',
  `username_key` VARCHAR(64) COLLATE utf8mb4_bin NOT NULL COMMENT '用户名(比较用)',
  `email` VARCHAR(254) NOT NULL COMMENT '邮箱',
  `email_key` VARCHAR(254) COLLATE utf8mb4_bin NOT NULL COMMENT '邮箱(比较用)',
  `password_hash` VARCHAR(255) NOT NULL COMMENT '密码哈希(Argon2)',
  `token_generation` INTEGER UNSIGNED NOT NULL DEFAULT 0 COMMENT '令牌代数(改密码后旧令牌失效)',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '创建时间',
  `updated_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '修改时间',
  `disabled_at` DATETIME DEFAULT NULL COMMENT '停用时间(空为可用)',
  PRIMARY KEY (`id`),
  UNIQUE KEY `uk_username_key` (`username_key`),
  UNIQUE KEY `uk_email_key` (`email_key`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='用户';

-- Failed log-ins in a row; subject is a hash.
CREATE TABLE IF NOT EXISTS `login_failure` (
  `subject` VARCHAR(64) NOT NULL COMMENT '账号或地址的SHA-256',
  `failures` INTEGER UNSIGNED NOT NULL COMMENT '连续失败次数',
  `last_failure_at` DATETIME(3) NOT NULL COMMENT '最后失败时间',
  PRIMARY KEY (`subject`),
  KEY `idx_last_failure_at` (`last_failure_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='登录失败记录';

-- A file of the storage, named by its SHA-256 and shared by equal pictures.
CREATE TABLE IF NOT EXISTS `stored_file` (
  `sha256` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `version` VARCHAR(16) NOT NULL COMMENT '文件版本(文件名的一部分)',
  `size_bytes` BIGINT UNSIGNED NOT NULL COMMENT '文件大小(字节)',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '创建时间',
  PRIMARY KEY (`sha256`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='存储的文件';

-- The library as a whole: one row.
CREATE TABLE IF NOT EXISTS `library_state` (
  `id` TINYINT UNSIGNED NOT NULL COMMENT '固定为1',
  `library_id` VARCHAR(32) NOT NULL COMMENT '图片库ID(与存储中的标记一致)',
  `swept_at` DATETIME(3) NOT NULL COMMENT '最近一次清理的开始时间',
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='图片库状态';

-- A picture in an account's library.
CREATE TABLE IF NOT EXISTS `library_image` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `user_id` BIGINT UNSIGNED NOT NULL COMMENT '用户',
  `sha256` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `filename` VARCHAR(255) NOT NULL COMMENT '原文件名',
  `format` VARCHAR(8) NOT NULL COMMENT '格式',
  `width` INTEGER UNSIGNED NOT NULL COMMENT '宽(像素)',
  `height` INTEGER UNSIGNED NOT NULL COMMENT '高(像素)',
  `size_bytes` BIGINT UNSIGNED NOT NULL COMMENT '文件大小(字节)',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '上传时间',
  PRIMARY KEY (`id`),
  KEY `idx_sha256` (`sha256`),
  KEY `idx_user_id` (`user_id`, `id`, `size_bytes`),
  FOREIGN KEY (`user_id`) REFERENCES `users` (`id`) ON DELETE CASCADE,
  FOREIGN KEY (`sha256`) REFERENCES `stored_file` (`sha256`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='用户图片';

-- A picture to be looked at later.
CREATE TABLE IF NOT EXISTS `inference_task` (
  `id` VARCHAR(32) NOT NULL COMMENT '任务ID',
  `user_id` BIGINT UNSIGNED NOT NULL COMMENT '用户',
  `image_id` BIGINT UNSIGNED NOT NULL COMMENT '图片',
  `model_name` VARCHAR(100) NOT NULL COMMENT '所要的模型',
  `status` VARCHAR(16) NOT NULL COMMENT '状态',
  `attempts` INTEGER UNSIGNED NOT NULL DEFAULT 0 COMMENT '已尝试次数',
  `due_at` DATETIME(3) NOT NULL COMMENT '可执行时间',
  `runner` VARCHAR(64) DEFAULT NULL COMMENT '执行进程',
  `claim` VARCHAR(32) DEFAULT NULL COMMENT '领取标记',
  `error_code` VARCHAR(64) DEFAULT NULL COMMENT '错误码',
  `error_message` VARCHAR(500) DEFAULT NULL COMMENT '错误说明',
  `result_id` BIGINT UNSIGNED DEFAULT NULL COMMENT '结果',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '创建时间',
  `updated_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '修改时间',
  `priority` TINYINT UNSIGNED NOT NULL DEFAULT 0 COMMENT '优先级(0-单个 1-任务组 2-可等待 3-批次中)',
  `batch_item` VARCHAR(32) DEFAULT NULL COMMENT '模型批次中的请求ID',
  `job_id` VARCHAR(32) DEFAULT NULL COMMENT '任务组ID',
  `language` VARCHAR(8) DEFAULT NULL COMMENT '所要的描述语言(zh/en)',
  PRIMARY KEY (`id`),
  KEY `idx_updated_at` (`updated_at`),
  KEY `idx_queue` (`status`, `priority`, `due_at`),
  KEY `idx_batch_item` (`batch_item`),
  KEY `idx_job_id` (`job_id`, `status`),
  KEY `idx_image_id` (`image_id`),
  KEY `idx_user_id` (`user_id`, `created_at`),
  KEY `idx_user_status` (`user_id`, `status`),
  FOREIGN KEY (`user_id`) REFERENCES `users` (`id`) ON DELETE CASCADE,
  FOREIGN KEY (`image_id`) REFERENCES `library_image` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='异步推理任务';

-- What a model said of a picture of a library.
CREATE TABLE IF NOT EXISTS `inference_result` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `user_id` BIGINT UNSIGNED NOT NULL COMMENT '用户',
  `image_id` BIGINT UNSIGNED NOT NULL COMMENT '图片',
  `task_id` VARCHAR(32) DEFAULT NULL COMMENT '任务ID',
  `model_name` VARCHAR(100) NOT NULL COMMENT '所要的模型',
  `model` VARCHAR(255) NOT NULL COMMENT '回答的模型',
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `category` VARCHAR(50) NOT NULL COMMENT '分类Key（8个类别之一）',
  `confidence` NUMERIC(5, 4) NOT NULL COMMENT '置信度(0-1)',
  `description` VARCHAR(2000) DEFAULT NULL COMMENT '图片描述',
  `from_cache` TINYINT(1) NOT NULL COMMENT '是否来自缓存(0-否 1-是)',
  `processing_time_ms` INTEGER UNSIGNED NOT NULL COMMENT '处理耗时(毫秒)',
  `request_id` VARCHAR(64) NOT NULL COMMENT '请求ID',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '创建时间',
  `cost_micros` BIGINT UNSIGNED NOT NULL DEFAULT '0' COMMENT '得到该结果的费用(CURRENCY的百万分之一)',
  PRIMARY KEY (`id`),
  KEY `idx_image_hash` (`image_hash`, `model`),
  KEY `idx_user_id` (`user_id`, `id`),
  KEY `idx_image_id` (`image_id`),
  UNIQUE KEY `uk_task_id` (`task_id`),
  FOREIGN KEY (`user_id`) REFERENCES `users` (`id`) ON DELETE CASCADE,
  FOREIGN KEY (`image_id`) REFERENCES `library_image` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='推理结果';

-- Changes of tasks, for those who listen.
CREATE TABLE IF NOT EXISTS `task_event` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `user_id` BIGINT UNSIGNED NOT NULL COMMENT '用户',
  `task_id` VARCHAR(32) NOT NULL COMMENT '任务ID',
  `body` JSON NOT NULL COMMENT '事件内容',
  `created_at` DATETIME(3) NOT NULL COMMENT '发生时间',
  PRIMARY KEY (`id`),
  KEY `idx_user_id` (`user_id`, `id`),
  KEY `idx_created_at` (`created_at`),
  KEY `idx_task_id` (`task_id`),
  FOREIGN KEY (`user_id`) REFERENCES `users` (`id`) ON DELETE CASCADE,
  FOREIGN KEY (`task_id`) REFERENCES `inference_task` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='任务事件';

-- The ledger: one row for each call of a model that costs money.
CREATE TABLE IF NOT EXISTS `model_call` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `request_id` VARCHAR(64) NOT NULL COMMENT '请求ID',
  `number` INTEGER UNSIGNED NOT NULL COMMENT '同一请求中的第几次调用(从0开始)',
  `called_at` DATETIME NOT NULL COMMENT '调用时间',
  `provider` VARCHAR(100) NOT NULL COMMENT '服务商',
  `model` VARCHAR(255) NOT NULL COMMENT '模型',
  `input_tokens` INTEGER UNSIGNED NOT NULL COMMENT '输入token数',
  `cached_input_tokens` INTEGER UNSIGNED NOT NULL COMMENT '其中命中服务商缓存的token数',
  `output_tokens` INTEGER UNSIGNED NOT NULL COMMENT '输出token数',
  `cost_micros` BIGINT UNSIGNED NOT NULL COMMENT '费用(CURRENCY的百万分之一)',
  `outcome` VARCHAR(16) NOT NULL COMMENT '结果: answered, invalid, refused, failed',
  `api_key_id` BIGINT UNSIGNED DEFAULT NULL COMMENT 'API密钥ID',
  `account_id` BIGINT UNSIGNED DEFAULT NULL COMMENT '账号ID',
  `user_id` VARCHAR(64) COLLATE utf8mb4_bin DEFAULT NULL COMMENT '用户ID/设备ID',
  PRIMARY KEY (`id`),
  UNIQUE KEY `uk_request_id` (`request_id`, `number`),
  KEY `idx_called_at` (`called_at`),
  KEY `idx_user_id` (`user_id`),
  KEY `idx_account_id` (`account_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='付费模型调用账本';

-- Its sums, as in stats_period.
CREATE TABLE IF NOT EXISTS `stats_spending` (
  `period_start` DATETIME NOT NULL COMMENT '时段开始(UTC, 15分钟)',
  `provider` VARCHAR(100) NOT NULL COMMENT '服务商',
  `model` VARCHAR(255) NOT NULL COMMENT '模型',
  `api_key_id` BIGINT UNSIGNED NOT NULL COMMENT 'API密钥ID(0为无)',
  `shard` TINYINT UNSIGNED NOT NULL COMMENT '分片',
  `calls` BIGINT UNSIGNED NOT NULL COMMENT '调用次数',
  `input_tokens` BIGINT UNSIGNED NOT NULL COMMENT '输入token数',
  `cached_input_tokens` BIGINT UNSIGNED NOT NULL COMMENT '其中命中服务商缓存的token数',
  `output_tokens` BIGINT UNSIGNED NOT NULL COMMENT '输出token数',
  `cost_micros` BIGINT UNSIGNED NOT NULL COMMENT '费用(CURRENCY的百万分之一)',
  PRIMARY KEY (`period_start`, `provider`, `model`, `api_key_id`, `shard`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='分时段费用';

-- What of a budget or of another limit is used in its window.
CREATE TABLE IF NOT EXISTS `budget_use` (
  `scope` VARCHAR(100) COLLATE utf8mb4_bin NOT NULL COMMENT '限额对象',
  `window_start` DATETIME NOT NULL COMMENT '窗口开始(UTC)',
  `used` BIGINT UNSIGNED NOT NULL COMMENT '已用(百万分之一货币单位, 或图片数)',
  `attempts` BIGINT UNSIGNED NOT NULL COMMENT '领取次数',
  PRIMARY KEY (`scope`, `window_start`),
  KEY `idx_window_start` (`window_start`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='限额使用情况';

-- API keys; a key itself is kept nowhere.
CREATE TABLE IF NOT EXISTS `api_key` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `name` VARCHAR(64) NOT NULL COMMENT '名称',
  `key_hash` VARCHAR(64) NOT NULL COMMENT '密钥的SHA-256',
  `scopes` VARCHAR(64) NOT NULL COMMENT '权限',
  `budget_micros` BIGINT UNSIGNED DEFAULT NULL COMMENT '每日预算',
  `rate_per_minute` INTEGER UNSIGNED DEFAULT NULL COMMENT '每分钟请求数',
  `created_at` DATETIME NOT NULL COMMENT '创建时间',
  `expires_at` DATETIME DEFAULT NULL COMMENT '过期时间',
  `revoked_at` DATETIME DEFAULT NULL COMMENT '吊销时间',
  PRIMARY KEY (`id`),
  UNIQUE KEY `uk_key_hash` (`key_hash`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='API密钥';

-- Who did what that an operator may have to answer for.
CREATE TABLE IF NOT EXISTS `audit_log` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `at` DATETIME NOT NULL COMMENT '时间(UTC)',
  `actor` VARCHAR(128) NOT NULL COMMENT '操作者',
  `action` VARCHAR(64) NOT NULL COMMENT '操作',
  `subject` VARCHAR(128) DEFAULT NULL COMMENT '对象',
  `ip_address` VARCHAR(45) DEFAULT NULL COMMENT 'IP地址',
  `details` JSON NOT NULL COMMENT '详情',
  PRIMARY KEY (`id`),
  KEY `idx_at` (`at`),
  KEY `idx_subject` (`subject`, `at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='审计日志';

-- Nonces of signed requests: a copy of one is refused.
CREATE TABLE IF NOT EXISTS `signature_nonce` (
  `nonce_hash` VARCHAR(64) NOT NULL COMMENT '密钥ID与随机数的SHA-256',
  `request_id` VARCHAR(64) NOT NULL COMMENT '使用它的请求ID',
  `expires_at` DATETIME NOT NULL COMMENT '过期时间(UTC), 之后可删除',
  PRIMARY KEY (`nonce_hash`),
  KEY `idx_expires_at` (`expires_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='请求签名中用过的随机数';

-- Who was forgotten within the last days, so that rows which waited on disk do not bring the ids back.
CREATE TABLE IF NOT EXISTS `forgotten_user` (
  `user_hash` VARCHAR(64) NOT NULL COMMENT '用户ID的SHA-256',
  `forgotten_at` DATETIME NOT NULL COMMENT '遗忘时间',
  PRIMARY KEY (`user_hash`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='近期被遗忘的用户';

-- How many photos became known, by the model that answered, the format, and the tenth of the confidence.
CREATE TABLE IF NOT EXISTS `stats_new_photo` (
  `period_start` DATETIME NOT NULL COMMENT '时段开始(UTC, 15分钟)',
  `kind` VARCHAR(16) NOT NULL COMMENT 'model, format或confidence',
  `value` VARCHAR(255) COLLATE utf8mb4_bin NOT NULL COMMENT '模型、格式或置信度区间',
  `shard` TINYINT UNSIGNED NOT NULL COMMENT '分片',
  `photos` BIGINT UNSIGNED NOT NULL COMMENT '新图片数',
  PRIMARY KEY (`period_start`, `kind`, `value`, `shard`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='分时段新图片数';

-- When the days of STATS_TIMEZONE begin and end; the service writes them at its start.
CREATE TABLE IF NOT EXISTS `stats_day` (
  `day` DATE NOT NULL COMMENT '日期(统计时区)',
  `starts_at` DATETIME NOT NULL COMMENT '开始(UTC)',
  `ends_at` DATETIME NOT NULL COMMENT '结束(UTC, 不含)',
  PRIMARY KEY (`day`),
  KEY `idx_starts_at` (`starts_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='统计日历';

-- The statistics as views: the figures of the endpoints. Today is a day of STATS_TIMEZONE, money is in CURRENCY.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW `v_today` AS
SELECT total_requests, cache_hits, total_requests - cache_hits AS cache_misses,
  COALESCE(((2 * (100 * cache_hits) * 100 + total_requests) DIV (2 * total_requests)) * 0.01, 0) AS cache_hit_rate,
  unique_users, unique_ips,
  COALESCE(((2 * (milliseconds) * 100 + total_requests) DIV (2 * total_requests)) * 0.01, 0) AS avg_processing_time_ms,
  (spent_micros) * 0.000001 AS estimated_cost, (saved_micros) * 0.000001 AS cost_saved
FROM (
  SELECT COALESCE(SUM(p.requests), 0) AS total_requests, COALESCE(SUM(p.hits), 0) AS cache_hits,
    COALESCE(SUM(p.processing_time_ms), 0) AS milliseconds, COALESCE(SUM(p.saved_micros), 0) AS saved_micros,
    (SELECT COALESCE(SUM(s.cost_micros), 0) FROM stats_spending AS s
      WHERE s.period_start >= d.starts_at AND s.period_start < d.ends_at) AS spent_micros,
    (SELECT COALESCE(SUM(v.visitors), 0) FROM stats_visitor_count AS v WHERE v.day = d.day AND v.kind = 'user') AS unique_users,
    (SELECT COALESCE(SUM(v.visitors), 0) FROM stats_visitor_count AS v WHERE v.day = d.day AND v.kind = 'ip') AS unique_ips
  FROM stats_day AS d
  LEFT JOIN stats_period AS p ON p.period_start >= d.starts_at AND p.period_start < d.ends_at
  WHERE d.starts_at <= UTC_TIMESTAMP() AND d.ends_at > UTC_TIMESTAMP()
  GROUP BY d.day, d.starts_at, d.ends_at
) AS today;

CREATE OR REPLACE SQL SECURITY INVOKER VIEW `v_cache_efficiency` AS
SELECT images AS total_cached_images, hits AS total_hits, hits - images AS times_saved,
  (saved_micros) * 0.000001 AS cost_saved,
  COALESCE(((2 * (hits) * 100 + images) DIV (2 * images)) * 0.01, 0) AS avg_hit_per_image,
  COALESCE((SELECT MAX(hit_count) FROM image_classification_cache), 0) AS max_hits
FROM (
  SELECT COALESCE(SUM(images), 0) AS images, COALESCE(SUM(hits), 0) AS hits,
    COALESCE(SUM(saved_micros), 0) AS saved_micros
  FROM stats_cache
) AS cache;

CREATE OR REPLACE SQL SECURITY INVOKER VIEW `v_category_distribution` AS
SELECT category, requests AS count, COALESCE(((2 * (100 * requests) * 100 + total) DIV (2 * total)) * 0.01, 0) AS percentage,
  COALESCE(((2 * (confidence) * 10000 + 10000 * requests) DIV (2 * 10000 * requests)) * 0.0001, 0) AS avg_confidence
FROM (
  SELECT p.category AS category, SUM(p.requests) AS requests, SUM(p.confidence_sum) AS confidence,
    SUM(SUM(p.requests)) OVER () AS total
  FROM stats_day AS d
  JOIN stats_period AS p ON p.period_start >= d.starts_at AND p.period_start < d.ends_at
  WHERE d.starts_at <= UTC_TIMESTAMP() AND d.ends_at > UTC_TIMESTAMP()
  GROUP BY p.category
) AS shares
ORDER BY requests DESC, category;

CREATE OR REPLACE SQL SECURITY INVOKER VIEW `v_top_images` AS
SELECT image_hash, category, confidence, hit_count, created_at, last_hit_at, TIMESTAMPDIFF(DAY, created_at, last_hit_at) AS lifetime_days
FROM image_classification_cache
ORDER BY hit_count DESC, id DESC
LIMIT 10;

CREATE OR REPLACE SQL SECURITY INVOKER VIEW `v_top_users` AS
SELECT user_id, requests AS request_count, hits AS cache_hits,
  COALESCE(((2 * (100 * hits) * 100 + requests) DIV (2 * requests)) * 0.01, 0) AS cache_hit_rate,
  first_request_at AS first_request, last_request_at AS last_request
FROM stats_user
ORDER BY requests DESC, user_id DESC
LIMIT 20;

-- First answers of requests with an Idempotency-Key; deleted after 24 hours.
CREATE TABLE IF NOT EXISTS `idempotent_answer` (
  `key_hash` VARCHAR(64) NOT NULL COMMENT '调用方、路径与幂等键的SHA-256',
  `fingerprint` VARCHAR(64) NOT NULL COMMENT '请求内容的SHA-256',
  `request_id` VARCHAR(64) NOT NULL COMMENT '首次请求的ID',
  `user_id` VARCHAR(64) COLLATE utf8mb4_bin DEFAULT NULL COMMENT '用户ID/设备ID',
  `image_id` BIGINT UNSIGNED DEFAULT NULL COMMENT '图片',
  `body` MEDIUMTEXT NOT NULL COMMENT '首次应答的正文',
  `created_at` DATETIME(3) NOT NULL COMMENT '创建时间(UTC), 24小时后删除',
  PRIMARY KEY (`key_hash`),
  KEY `idx_created_at` (`created_at`),
  KEY `idx_user_id` (`user_id`),
  KEY `idx_image_id` (`image_id`),
  FOREIGN KEY (`image_id`) REFERENCES `library_image` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='带幂等键请求的首次应答';

-- Perceptual hashes of photos that a model has answered, cut into bands that a look-up by distance asks for.
CREATE TABLE IF NOT EXISTS `perceptual_hash` (
  `entry_id` BIGINT UNSIGNED NOT NULL COMMENT '缓存条目',
  `hash` BIGINT NOT NULL COMMENT '64位感知哈希',
  `band_1` INT UNSIGNED NOT NULL COMMENT '第1段',
  `band_2` INT UNSIGNED NOT NULL COMMENT '第2段',
  `band_3` INT UNSIGNED NOT NULL COMMENT '第3段',
  PRIMARY KEY (`entry_id`),
  KEY `idx_band_1` (`band_1`, `hash`),
  KEY `idx_band_2` (`band_2`, `hash`),
  KEY `idx_band_3` (`band_3`, `hash`),
  FOREIGN KEY (`entry_id`) REFERENCES `image_classification_cache` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='缓存图片的感知哈希';

-- Entries whose answer is that of a similar photo's entry.
CREATE TABLE IF NOT EXISTS `cache_alias` (
  `entry_id` BIGINT UNSIGNED NOT NULL COMMENT '相似照片的缓存条目',
  `original_id` BIGINT UNSIGNED NOT NULL COMMENT '原照片的缓存条目',
  `distance` TINYINT UNSIGNED NOT NULL COMMENT '感知哈希的汉明距离',
  PRIMARY KEY (`entry_id`),
  KEY `idx_original_id` (`original_id`),
  FOREIGN KEY (`entry_id`) REFERENCES `image_classification_cache` (`id`) ON DELETE CASCADE,
  FOREIGN KEY (`original_id`) REFERENCES `image_classification_cache` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='相似照片的别名';

-- How many answers were those of a similar photo, and what they saved.
CREATE TABLE IF NOT EXISTS `stats_similar` (
  `period_start` DATETIME NOT NULL COMMENT '时段开始(UTC, 15分钟)',
  `shard` TINYINT UNSIGNED NOT NULL COMMENT '分片',
  `hits` BIGINT UNSIGNED NOT NULL COMMENT '相似命中数',
  `saved_micros` BIGINT UNSIGNED NOT NULL COMMENT '节省的费用(CURRENCY的百万分之一)',
  PRIMARY KEY (`period_start`, `shard`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='分时段相似命中';

-- What users say of answers; who they are stands here only as SHA-256.
CREATE TABLE IF NOT EXISTS `feedback` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `voter` VARCHAR(64) NOT NULL COMMENT '投票者(SHA-256)',
  `counted_as` VARCHAR(64) NOT NULL COMMENT '按谁计数(SHA-256)',
  `network` VARCHAR(64) DEFAULT NULL COMMENT '匿名者的网络(SHA-256)',
  `user_hash` VARCHAR(64) DEFAULT NULL COMMENT '用户ID的SHA-256',
  `category` VARCHAR(50) NOT NULL COMMENT '用户认为的分类',
  `comment` VARCHAR(500) DEFAULT NULL COMMENT '备注',
  `answered_category` VARCHAR(50) NOT NULL COMMENT '当时回答的分类',
  `answered_model` VARCHAR(255) NOT NULL COMMENT '当时回答的模型',
  `is_dismissed` TINYINT(1) NOT NULL DEFAULT '0' COMMENT '是否被运维驳回(0-否 1-是)',
  `created_at` DATETIME NOT NULL COMMENT '最近一次提交时间',
  PRIMARY KEY (`id`),
  UNIQUE KEY `uk_image_voter` (`image_hash`, `voter`),
  KEY `idx_user_hash` (`user_hash`),
  KEY `idx_created_at` (`created_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='用户反馈';

-- What was done by hand to the entries of the cache.
CREATE TABLE IF NOT EXISTS `cache_history` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `changed_at` DATETIME NOT NULL COMMENT '修改时间',
  `action` VARCHAR(16) NOT NULL COMMENT '操作',
  `actor` VARCHAR(128) NOT NULL COMMENT '操作者',
  `entry_before` JSON DEFAULT NULL COMMENT '修改前',
  `entry_after` JSON DEFAULT NULL COMMENT '修改后',
  `undone_at` DATETIME DEFAULT NULL COMMENT '撤销时间',
  PRIMARY KEY (`id`),
  KEY `idx_image_hash` (`image_hash`, `id`),
  KEY `idx_action` (`action`, `changed_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='缓存条目的人工修改历史';

-- An album: tasks that are asked for, looked at and cancelled together.
CREATE TABLE IF NOT EXISTS `inference_job` (
  `id` VARCHAR(32) NOT NULL COMMENT '任务组ID',
  `user_id` BIGINT UNSIGNED NOT NULL COMMENT '用户',
  `model_name` VARCHAR(100) NOT NULL COMMENT '所要的模型',
  `priority` TINYINT UNSIGNED NOT NULL COMMENT '优先级(1-任务组 2-可等待)',
  `cancelled` TINYINT(1) NOT NULL DEFAULT 0 COMMENT '是否已取消(0-否 1-是)',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '创建时间',
  PRIMARY KEY (`id`),
  KEY `idx_user_id` (`user_id`, `created_at`),
  KEY `idx_created_at` (`created_at`),
  FOREIGN KEY (`user_id`) REFERENCES `users` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='异步推理任务组';

-- Photos that a provider looks at together, at a lower price.
CREATE TABLE IF NOT EXISTS `model_batch` (
  `id` VARCHAR(32) NOT NULL COMMENT '批次ID',
  `provider` VARCHAR(100) NOT NULL COMMENT '服务商',
  `model` VARCHAR(255) NOT NULL COMMENT '模型',
  `status` VARCHAR(16) NOT NULL COMMENT '状态',
  `provider_batch_id` VARCHAR(255) DEFAULT NULL COMMENT '服务商的批次ID',
  `photos` INTEGER UNSIGNED NOT NULL COMMENT '图片数',
  `reserved_micros` BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT '预留费用(CURRENCY的百万分之一)',
  `owner` VARCHAR(64) DEFAULT NULL COMMENT '处理进程',
  `due_at` DATETIME(3) NOT NULL COMMENT '下一步的时间',
  `steps` INTEGER UNSIGNED NOT NULL DEFAULT 0 COMMENT '当前状态下的步数',
  `submitting_at` DATETIME DEFAULT NULL COMMENT '开始提交的时间',
  `deadline_at` DATETIME(3) NOT NULL COMMENT '截止时间',
  `error_code` VARCHAR(64) DEFAULT NULL COMMENT '错误码',
  `created_at` DATETIME NOT NULL COMMENT '创建时间',
  `updated_at` DATETIME NOT NULL COMMENT '修改时间',
  PRIMARY KEY (`id`),
  KEY `idx_status` (`status`, `due_at`),
  KEY `idx_reserved_micros` (`reserved_micros`),
  KEY `idx_updated_at` (`updated_at`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='模型批次';

-- A photo of a batch, and what the provider said of it.
CREATE TABLE IF NOT EXISTS `model_batch_item` (
  `id` VARCHAR(32) NOT NULL COMMENT '请求ID(custom_id)',
  `batch_id` VARCHAR(32) NOT NULL COMMENT '批次ID',
  `user_id` BIGINT UNSIGNED NOT NULL COMMENT '用户',
  `image_id` BIGINT UNSIGNED NOT NULL COMMENT '图片',
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希值',
  `outcome` VARCHAR(16) DEFAULT NULL COMMENT '结果: answered, invalid, refused, failed',
  `error_code` VARCHAR(64) DEFAULT NULL COMMENT '错误码',
  `answer` JSON DEFAULT NULL COMMENT '模型的回答',
  `cost_micros` BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT '费用(CURRENCY的百万分之一)',
  `language` VARCHAR(8) DEFAULT NULL COMMENT '所要的描述语言(zh/en)',
  PRIMARY KEY (`id`),
  KEY `idx_batch_id` (`batch_id`),
  KEY `idx_user_id` (`user_id`),
  KEY `idx_image_id` (`image_id`),
  FOREIGN KEY (`batch_id`) REFERENCES `model_batch` (`id`) ON DELETE CASCADE,
  FOREIGN KEY (`user_id`) REFERENCES `users` (`id`) ON DELETE CASCADE,
  FOREIGN KEY (`image_id`) REFERENCES `library_image` (`id`) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='模型批次中的图片';

-- Which migration this file corresponds to, so that the service goes on from here.
CREATE TABLE IF NOT EXISTS `alembic_version` (
  `version_num` VARCHAR(32) NOT NULL,
  PRIMARY KEY (`version_num`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

INSERT INTO `alembic_version` (`version_num`)
SELECT '0015' FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM `alembic_version`);
