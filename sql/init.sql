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
  `model_used` VARCHAR(50) NOT NULL COMMENT '使用的模型',
  `model_response` JSON DEFAULT NULL COMMENT '完整模型响应',
  `hit_count` INT UNSIGNED DEFAULT 1 COMMENT '缓存命中次数',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '首次创建时间',
  `last_hit_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP COMMENT '最后命中时间',
  PRIMARY KEY (`id`),
  UNIQUE KEY `uk_image_hash` (`image_hash`),
  KEY `idx_created_at` (`created_at`),
  KEY `idx_category` (`category`),
  KEY `idx_hit_count` (`hit_count`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
COMMENT='图片分类全局缓存表';

-- One answered request. Times are UTC.
CREATE TABLE IF NOT EXISTS `request_log` (
  `id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  `request_id` VARCHAR(64) NOT NULL COMMENT '请求唯一ID',
  `user_id` VARCHAR(64) DEFAULT NULL COMMENT '用户ID/设备ID',
  `ip_address` VARCHAR(45) DEFAULT NULL COMMENT '客户端IP地址',
  `image_hash` VARCHAR(64) NOT NULL COMMENT 'SHA-256哈希',
  `image_size` INT UNSIGNED DEFAULT NULL COMMENT '图片大小(字节)',
  `category` VARCHAR(50) NOT NULL COMMENT '分类Key（8个类别之一）',
  `confidence` DECIMAL(5,4) NOT NULL COMMENT '置信度',
  `from_cache` TINYINT(1) DEFAULT 0 COMMENT '是否来自缓存(0-否 1-是)',
  `processing_time_ms` INT UNSIGNED DEFAULT NULL COMMENT '处理耗时(毫秒)',
  `created_at` DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP COMMENT '创建时间',
  `created_date` DATE GENERATED ALWAYS AS (DATE(`created_at`)) STORED COMMENT '日期(便于分区查询)',
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

-- Which migration this file corresponds to, so that the service goes on from here.
CREATE TABLE IF NOT EXISTS `alembic_version` (
  `version_num` VARCHAR(32) NOT NULL,
  PRIMARY KEY (`version_num`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

INSERT INTO `alembic_version` (`version_num`)
SELECT '0001' FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM `alembic_version`);
