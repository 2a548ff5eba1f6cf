"""The Chinese of each English sentence that a caller may read in an error, with the same values in braces.

As with gettext, the English sentence is the key: one that is changed has to be translated anew
(tests/language/test_messages.py compares this table with the source).
"""

SENTENCES = {
    # The sentences of the classes: app/errors.py.
    "Something went wrong on our side. Quote the request_id when you report it.": (
        "服务内部出错。反馈问题时请附上 request_id。"
    ),
    "The request is not as documented.": "请求不符合接口文档。",
    "image_hash is not the SHA-256 of the uploaded bytes. Hash the very bytes that you send.": (
        "image_hash 不是所上传字节的 SHA-256。请对实际发送的字节计算哈希。"
    ),
    "The body is not the one that Content-Digest names. Hash the very bytes of the whole body.": (
        "请求体与 Content-Digest 不符。请对整个请求体的实际字节计算哈希。"
    ),
    "Send the photo as the multipart/form-data file field 'image'.": (
        "请以 multipart/form-data 的文件字段 'image' 发送照片。"
    ),
    "Too many 'image' parts in one call.": "一次请求中的 'image' 部分过多。",
    "The bytes are not in one of the accepted image formats.": "上传的内容不是可接受的图片格式。",
    "The image is damaged or cut off.": "图片已损坏或不完整。",
    "The image has more pixels than we accept. Scale it down; 1024 pixels on the long edge are enough.": (
        "图片的像素数超过上限。请缩小图片，长边 1024 像素即可。"
    ),
    "Decoding this image would cost too much. Save it again as an ordinary JPEG.": (
        "解码这张图片的开销过大。请另存为普通 JPEG。"
    ),
    "There is no model of this name. GET /models lists those that can be chosen.": (
        "没有这个名称的模型。GET /models 列出可选的模型。"
    ),
    "Send one Idempotency-Key of 1 to 255 visible ASCII characters, such as a UUID.": (
        "请发送一个 Idempotency-Key，由 1 到 255 个可见 ASCII 字符组成，例如 UUID。"
    ),
    "A job has at most 10000 pictures. Begin another one for the rest.": (
        "一个批量任务最多 10000 张图片。其余的请另建一个。"
    ),
    "This password is among the first that are guessed. Choose another.": "这个密码太容易被猜到，请换一个。",
    "Send an API key in the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.": (
        "请在请求头 'Authorization: Bearer KEY' 或 'X-API-Key: KEY' 中发送 API 密钥。"
    ),
    "This API key is not valid, or not any more.": "API 密钥无效或已失效。",
    "Log in with any user name, and as the password an API key that may see this page.": (
        "请登录：用户名任意，密码填写有权查看此页面的 API 密钥。"
    ),
    "Log in at POST /users/token and send the header 'Authorization: Bearer TOKEN'.": (
        "请通过 POST /users/token 登录，并发送请求头 'Authorization: Bearer TOKEN'。"
    ),
    "This token is not valid, or not any more. Log in again.": "令牌无效或已失效，请重新登录。",
    "This token has expired. Log in again.": "令牌已过期，请重新登录。",
    "User name or password is wrong.": "用户名或密码错误。",
    "The request is not signed with an API key that counts, or not as it has arrived here.": (
        "请求未用有效的 API 密钥签名，或签名与收到的请求不符。"
    ),
    "The signature was made more than five minutes from now. Check the clock, and sign each request anew.": (
        "签名时间与现在相差超过五分钟。请校准时钟，并为每个请求重新签名。"
    ),
    "A request with this nonce was here before. Sign each request with a new nonce.": (
        "这个 nonce 已被用过。请为每个请求使用新的 nonce 签名。"
    ),
    "Accounts are made by the operator of this service only.": "账户只能由本服务的管理员创建。",
    "Log in again just before this change, or send your current_password with it.": (
        "请在修改前重新登录，或同时发送 current_password。"
    ),
    "This is not for you.": "没有权限。",
    "This API key may not do that; details.scope is what it would need.": (
        "这个 API 密钥没有该权限；所需权限见 details.scope。"
    ),
    "Requests from this address are not accepted here.": "不接受来自该地址的请求。",
    "There is nothing at this address.": "该地址不存在。",
    "No request with this id is in the log. It may be older than the log is kept.": (
        "日志中没有这个 id 的请求，可能已超过保存期限。"
    ),
    "The cache has no entry with this hash.": "缓存中没有这个哈希的条目。",
    "You have no image with this id.": "您没有这个 id 的图片。",
    "You have no task with this id. Finished tasks are kept for a limited time.": (
        "您没有这个 id 的任务。已结束的任务只保存一段时间。"
    ),
    "You have no job with this id. Finished jobs are kept for a limited time.": (
        "您没有这个 id 的批量任务。已结束的批量任务只保存一段时间。"
    ),
    "You have no result with this id.": "您没有这个 id 的结果。",
    "This address does not take this method; the Allow header names those it takes.": (
        "该地址不支持此方法；支持的方法见响应头 Allow。"
    ),
    "This does not fit what is there already.": "与现有内容冲突。",
    "This user name is taken.": "用户名已被使用。",
    "There is an account with this email address already.": "该邮箱地址已注册。",
    "Only a task that has not begun can be cancelled.": "只能取消尚未开始的任务。",
    "Nothing was done to this entry by hand that can be undone.": "这个条目没有可撤销的人工操作。",
    "This job is cancelled: it takes no further pictures.": "这个批量任务已取消，不再接受图片。",
    "Another request had this Idempotency-Key. Make a new key for each request, and keep it for its repeats.": (
        "这个 Idempotency-Key 已用于另一个请求。请为每个请求生成新的键，重发时沿用原键。"
    ),
    "The first request with this Idempotency-Key is not answered yet. Send this one again in a moment.": (
        "使用这个 Idempotency-Key 的首个请求尚未完成，请稍后重发。"
    ),
    "The request did not arrive in time. Send it again on a better connection.": (
        "请求未能及时到达，请在网络较好时重发。"
    ),
    "The request body is larger than we accept.": "请求体超过大小上限。",
    "The image file is larger than we accept. Compress it: JPEG, 1024 pixels, quality 80.": (
        "图片文件超过大小上限。请压缩：JPEG，1024 像素，质量 80。"
    ),
    "Your library is full. Delete some images first.": "您的图库已满，请先删除一些图片。",
    "A limit is reached. Try again later.": "已达上限，请稍后再试。",
    "The budget for new photos is used up for today. Photos that are known are still answered.": (
        "今天用于新照片的预算已用完。已知的照片仍可得到结果。"
    ),
    "This user has sent as many new photos as a day allows. Photos that are known are still answered.": (
        "该用户今天的新照片数已达上限。已知的照片仍可得到结果。"
    ),
    "This network has sent as many new photos as an hour allows. Photos that are known are still answered.": (
        "该网络这一小时的新照片数已达上限。已知的照片仍可得到结果。"
    ),
    "The request has more than 100 header lines, or more than 64 KB of them.": "请求头超过 100 行，或超过 64 KB。",
    "There is no service of this name here.": "此处没有这个名称的服务。",
    "Too many failed log-ins. Wait a moment before the next.": "登录失败次数过多，请稍后再试。",
    "Too many accounts were made from this address. Wait a moment before the next.": (
        "该地址注册的账户过多，请稍后再试。"
    ),
    "Too many wrong API keys, signatures or tokens came from this address. Wait a moment before the next.": (
        "来自该地址的错误 API 密钥、签名或令牌过多，请稍后再试。"
    ),
    "Too many requests in the last minute; details.per_minute is how many may be made.": (
        "最近一分钟的请求过多；每分钟的上限见 details.per_minute。"
    ),
    "Too many of your tasks are not finished yet. Wait for some of them, or cancel some.": (
        "您未完成的任务过多。请等待其中一些完成，或取消一些。"
    ),
    "Too many of your connections listen already. Close some of them.": "您正在监听的连接过多，请关闭一些。",
    "The database cannot be reached. Try again shortly.": "无法连接数据库，请稍后再试。",
    "The service is full. Try again shortly.": "服务繁忙，请稍后再试。",
    "The storage of the pictures cannot be reached. Try again shortly.": "无法访问图片存储，请稍后再试。",
    # Those of the models: app/clients.
    "The model failed.": "模型出错。",
    "The model's answer was not a valid classification.": "模型的回答不是有效的分类结果。",
    "The model's safety filter refused this picture. Sending it again will not help.": (
        "模型的安全过滤拒绝了这张图片，重发无效。"
    ),
    "The model does not accept the request for this picture.": "模型不接受针对这张图片的请求。",
    "The model server answered something that is no answer of a model. Try again shortly.": (
        "模型服务器返回的内容不是模型的回答，请稍后再试。"
    ),
    "The model took too long.": "模型超时。",
    "The model is not available at the moment. Try again later.": "模型暂时不可用，请稍后再试。",
    "The model is being prepared, which takes about a minute. Try again shortly.": (
        "模型正在准备，约需一分钟，请稍后再试。"
    ),
    "The model has failed too often and is left alone for a moment. Try again shortly.": (
        "模型多次出错，已暂停调用，请稍后再试。"
    ),
    "Too many photos are waiting for the model. Try again shortly.": "等待模型处理的照片过多，请稍后再试。",
    "The model cannot be reached. Try again shortly.": "无法连接模型，请稍后再试。",
    "The model provider limits our rate. Try again shortly.": "模型服务商限制了调用频率，请稍后再试。",
    "The model is still being loaded. Try again shortly.": "模型仍在加载，请稍后再试。",
    "This model cannot be set up.": "无法启用这个模型。",
    "The model is not loaded.": "模型未加载。",
    "The model is shutting down.": "模型正在关闭。",
    "The model cannot be loaded.": "无法加载模型。",
    "The local model has not been started.": "本地模型尚未启动。",
    "The local model is shutting down.": "本地模型正在关闭。",
    "The local model cannot decode the prepared photo.": "本地模型无法解码处理后的照片。",
    "The prepared photo cannot be decoded.": "无法解码处理后的照片。",
    "postprocess did not return a dict.": "postprocess 没有返回 dict。",
    "The model's confidence is not a number from 0 to 1.": "模型给出的置信度不是 0 到 1 之间的数。",
    "The model gave a label that is mapped to none of the categories.": "模型给出的标签不对应任何类别。",
    "The batch holds no answer for this picture.": "批处理中没有这张图片的结果。",
    "The answer was cut off at the token limit; it must be shorter.": "模型的回答因 token 上限被截断，须更短。",
    "The answer was empty.": "模型的回答为空。",
    "The answer holds thoughts that do not end.": "模型的回答中有未结束的思考过程。",
    "The answer has more than {most} characters.": "模型的回答超过 {most} 个字符。",
    "The answer holds no valid JSON object.": "模型的回答中没有有效的 JSON 对象。",
    "The answer holds more than one JSON object.": "模型的回答中有不止一个 JSON 对象。",
    "A key stands twice in the JSON object.": "JSON 对象中有重复的键。",
    '"category" must be one of: {categories}.': '"category" 必须是以下之一：{categories}。',
    '"confidence" must be a number from 0 to 1, such as 0.85; not a percentage, not text.': (
        '"confidence" 必须是 0 到 1 之间的数，例如 0.85，不能是百分数或文本。'
    ),
    # What a single place says beyond the sentence of the class.
    "X-User-ID: {reason}.": "X-User-ID 无效：{reason}。",
    "X-User-ID is not valid UTF-8.": "X-User-ID 不是有效的 UTF-8。",
    "Unknown query parameter {name!r}; this address knows: {known}.": "未知的查询参数 {name!r}；该地址支持：{known}。",
    "image_hash: 64 hex digits are expected.": "image_hash：应为 64 位十六进制数字。",
    "Ask for 'date', or for 'from' and 'to'.": "请指定 'date'，或者 'from' 和 'to'。",
    "Send the photo as the multipart/form-data file field '{field}'.": (
        "请以 multipart/form-data 的文件字段 '{field}' 发送照片。"
    ),
    "At most 1 '{field}' part is accepted in one call.": "一次请求最多一个 '{field}' 部分。",
    "At most {most} '{field}' parts are accepted in one call.": "一次请求最多 {most} 个 '{field}' 部分。",
    (
        "The image file is larger than we accept. Compress it: JPEG, 1024 pixels, quality 80."
        " The limit is {megabytes:g} MB."
    ): "图片文件超过大小上限。请压缩：JPEG，1024 像素，质量 80。上限为 {megabytes:g} MB。",
    "A signed form may have {megabytes:g} MB: nothing of it is used before its end.": (
        "带签名的表单最多 {megabytes:g} MB，因为全部到达之前不会使用其中任何内容。"
    ),
    "The multipart body ends before its closing boundary.": "multipart 请求体在结束边界之前中断。",
    "The multipart body is malformed.": "multipart 请求体格式错误。",
    "Users are counted by the day (bucket=day), and users, errors and money_spent not by category.": (
        "用户只能按天统计（bucket=day），users、errors 和 money_spent 不能按类别统计。"
    ),
    "'from' must not be after 'to'.": "'from' 不能晚于 'to'。",
    "'from' must be before 'to'.": "'from' 必须早于 'to'。",
    "These are more than {most} days.": "超过 {most} 天。",
    "These are more than {most} buckets. Choose longer ones, or less time.": (
        "超过 {most} 个区间。请选择更长的区间或更短的时间。"
    ),
    "username: it is too long.": "username：过长。",
    "email: it is too long.": "email：过长。",
    "current_password is wrong.": "current_password 错误。",
    "The password must not contain the user name.": "密码不能包含用户名。",
    "The password must not contain the email address, nor be made of its first part.": (
        "密码不能包含邮箱地址，也不能由其 @ 之前的部分构成。"
    ),
    "This API key was revoked.": "API 密钥已被吊销。",
    "This API key has expired.": "API 密钥已过期。",
    "This device token has expired. Ask the app's server for another.": "设备令牌已过期，请向应用的服务器重新获取。",
    "This device token is not valid, or not any more. Ask the app's server for another.": (
        "设备令牌无效或已失效，请向应用的服务器重新获取。"
    ),
    "The entry has changed since.": "条目此后已有变动。",
    "body.category: a correction needs one.": "body.category：更正时必须填写。",
    "Send request_id or image_hash.": "请发送 request_id 或 image_hash。",
    "request_id is not of the photo that image_hash names.": "request_id 与 image_hash 不是同一张照片。",
    "The stored file of this image is damaged. Upload it again.": "这张图片的存储文件已损坏，请重新上传。",
    "The bytes are not in one of the accepted image formats: {accepted}.": (
        "上传的内容不是可接受的图片格式：{accepted}。"
    ),
    "This kind of {format} is not accepted. Save it as an ordinary JPEG.": ("不接受这种 {format}，请另存为普通 JPEG。"),
    "This kind of JPEG (arithmetic, lossless or hierarchical) is not accepted. Save it as an ordinary JPEG.": (
        "不接受这种 JPEG（算术编码、无损或分层），请另存为普通 JPEG。"
    ),
    "This JPEG has more than 8 bits per colour. Save it as an ordinary JPEG.": (
        "这个 JPEG 每种颜色超过 8 位，请另存为普通 JPEG。"
    ),
    "Content-Digest is not a dictionary of structured fields (RFC 9651).": (
        "Content-Digest 不是结构化字段的字典（RFC 9651）。"
    ),
    "Content-Digest: {name} is no byte sequence.": "Content-Digest：{name} 不是字节序列。",
    "Content-Digest has neither sha-256 nor sha-512.": "Content-Digest 既没有 sha-256，也没有 sha-512。",
    "Signature-Input and Signature have more than {most} characters.": (
        "Signature-Input 和 Signature 超过 {most} 个字符。"
    ),
    "Signature-Input is not a dictionary of structured fields (RFC 9651).": (
        "Signature-Input 不是结构化字段的字典（RFC 9651）。"
    ),
    "Exactly one signature is expected in Signature-Input.": "Signature-Input 中应恰有一个签名。",
    'The parameter "keyid" has to be the id of an API key, in quotes.': (
        '参数 "keyid" 必须是 API 密钥的 id，并加引号。'
    ),
    'The parameter "created" is missing.': '缺少参数 "created"。',
    'The parameter "nonce" has to be {least} to {most} characters long.': (
        '参数 "nonce" 的长度须为 {least} 到 {most} 个字符。'
    ),
    'The signature does not cover "{missing}".': '签名没有覆盖 "{missing}"。',
    'The signature covers neither "@target-uri" nor "@authority", "@path" and "@query".': (
        '签名既没有覆盖 "@target-uri"，也没有覆盖 "@authority"、"@path" 和 "@query"。'
    ),
    # What validators of ours say of a field.
    "a user id has at most 64 characters": "用户 id 最多 64 个字符",
    "a user id has no control characters": "用户 id 不能包含控制字符",
    'a user id does not begin with "account:", which marks those who have signed in': (
        '用户 id 不能以 "account:" 开头，这是已登录账户的标记'
    ),
    "a user id is needed": "必须填写用户 id",
    "at most 32 characters": "最多 32 个字符",
    "letters, digits, '.', '_' and '-' only": "只能包含字母、数字、'.'、'_' 和 '-'",
    "not valid Unicode": "不是有效的 Unicode",
    "a day is written YYYY-MM-DD": "日期应写作 YYYY-MM-DD",
    "a moment is written YYYY-MM-DD or YYYY-MM-DDThh:mm:ssZ (or +hh:mm for Z)": (
        "时刻应写作 YYYY-MM-DD 或 YYYY-MM-DDThh:mm:ssZ（Z 也可以是 +hh:mm）"
    ),
    "years are 1970 to 2999": "年份应为 1970 到 2999",
}

# What pydantic says of a field, by its type of error: https://docs.pydantic.dev/latest/errors/validation_errors
PROBLEMS = {
    "missing": "缺少此字段",
    "extra_forbidden": "不允许多余的字段",
    "json_invalid": "不是有效的 JSON",
    "model_type": "应为对象",
    "model_attributes_type": "应为对象",
    "dict_type": "应为对象",
    "list_type": "应为数组",
    "string_type": "应为字符串",
    "string_unicode": "应为有效的 Unicode 字符串",
    "string_too_short": "至少 {min_length} 个字符",
    "string_too_long": "最多 {max_length} 个字符",
    "string_pattern_mismatch": "应符合模式 '{pattern}'",
    "too_short": "至少 {min_length} 项，现为 {actual_length} 项",
    "too_long": "最多 {max_length} 项",
    "enum": "可取的值：{expected}",
    "literal_error": "可取的值：{expected}",
    "bool_type": "应为布尔值",
    "bool_parsing": "应为布尔值",
    "int_type": "应为整数",
    "int_parsing": "应为整数",
    "int_parsing_size": "整数过大",
    "int_from_float": "应为整数",
    "float_type": "应为数",
    "float_parsing": "应为数",
    "finite_number": "应为有限的数",
    "greater_than": "应大于 {gt}",
    "greater_than_equal": "应大于或等于 {ge}",
    "less_than": "应小于 {lt}",
    "less_than_equal": "应小于或等于 {le}",
    "date_type": "应为日期",
    "date_parsing": "应为 YYYY-MM-DD 格式的日期",
    "date_from_datetime_parsing": "应为 YYYY-MM-DD 格式的日期",
    "datetime_type": "应为日期和时间",
    "datetime_parsing": "应为日期和时间",
    "datetime_from_date_parsing": "应为日期或日期和时间",
    # Of an email address; the library's reason is English.
    "value_error": "无效的值",
    # Ours: app/schemas/classify.py.
    "perceptual_hash": "应为 16 位十六进制数字",
}
