"""The keys of its configuration that LiteLLM reads, section by section, as its own source tells.

Seen in LiteLLM 1.108.7: ``proxy/proxy_server.py`` (``ProxyConfig.load_config``) hands ``router_settings`` to
``Router.__init__`` and ignores what that does not take, with a warning in its log; of ``litellm_settings`` it
makes variables of the module ``litellm``, also where nobody reads one of that name; of ``general_settings``,
and of sections that it does not know, it takes what it looks for and says nothing of the rest. A test
compares these lists with the installed LiteLLM (``tests/litellm/sources.py`` prints them).
"""

from __future__ import annotations

VERSION = "1.108.7"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SECTIONS = _words("""
    agent_list agents assistant_settings callback_settings credential_list default_vertex_config
    environment_variables files_settings finetune_settings general_settings guardrails include
    litellm_settings mcp_servers mcp_tools model_list policies policy_attachments prompts
    router_settings sandbox_tools search_tools vector_store_registry worker_registry
""")

ROUTER_SETTINGS = _words("""
    alerting_config allowed_fails allowed_fails_policy background_health_check_model_groups cache_kwargs
    cache_responses caching_groups client_ttl content_policy_fallbacks context_window_fallbacks
    cooldown_time debug_level default_fallbacks default_litellm_params default_max_parallel_requests
    default_priority deployment_affinity_ttl_seconds disable_cooldowns enable_health_check_routing
    enable_pre_call_checks enable_tag_filtering enable_weighted_failover fallback_on_unsupported_params
    fallbacks guardrail_list health_check_ignore_transient_errors health_check_staleness_threshold
    max_fallbacks model_group_affinity_config model_group_alias model_group_retry_policy num_retries
    optional_pre_call_checks plugins polling_interval provider_budget_config redis_db redis_host
    redis_password redis_port redis_url retry_after retry_policy routing_groups routing_strategy
    routing_strategy_args set_verbose stream_timeout tag_filtering_match_any tag_routing_prefix timeout
""")

GENERAL_SETTINGS = _words("""
    admin_only_routes admission_queue_timeout_seconds agent_access_default_deny alert_to_webhook_url
    alert_type_config alert_types alerting alerting_args alerting_threshold
    allow_cli_sso_verification_uri_complete allow_client_side_credentials
    allow_public_health_readiness_details allow_requests_on_db_unavailable allow_unmanaged_response_ids
    allow_user_auth allowed_file_extensions allowed_ips allowed_routes always_include_stream_usage
    apply_user_budget_to_team_keys auto_redirect_ui_login_to_sso background_health_check_model_groups
    background_health_checks blocked_file_extensions cancel_on_disconnect
    claude_code_gateway_managed_settings completion_model control_plane_url coordination_redis
    custom_auth custom_auth_run_common_checks custom_key_generate custom_key_policy custom_key_update
    custom_sso custom_team_metadata_validate custom_ui_sso_sign_in_handler
    dangerously_permit_weak_or_unset_master_key database_args database_connect_timeout
    database_connection_pool_limit database_connection_pool_timeout database_connection_timeout
    database_disable_prepared_statements database_extra_connection_params
    database_max_idle_connection_lifetime database_socket_timeout database_type database_url
    default_team_disabled disable_auto_add_proxy_admin_to_teams disable_batch_input_file_rate_limiting
    disable_bedrock_agent_runtime_passthrough disable_budget_reservation disable_custom_api_keys
    disable_env_credential_login disable_error_logs disable_fallbacks_on_per_model_rate_limits
    disable_key_generate_for_org_admin disable_master_key_return disable_model_info_refresh
    disable_password_login_when_sso_enabled disable_prisma_schema_update
    disable_requester_ip_address_logging disable_reset_budget disable_responses_id_security
    disable_retry_on_max_parallel_request_limit_error disable_spend_logs disable_spend_updates
    drain_endpoint_token email enable_claude_code_gateway enable_drain_endpoint
    enable_health_check_routing enable_jwt_auth enable_oauth2_auth enable_oauth2_proxy_auth
    enable_openai_websocket_passthrough enable_public_model_hub enforce_fallback_model_access
    enforce_rbac enforce_user_param enforced_params expose_fallback_errors_to_caller
    fail_closed_budget_enforcement fail_closed_rate_limit_enforcement failed_login_block_seconds
    failed_login_window_seconds forward_client_headers_to_llm_api forward_llm_provider_auth_headers
    forward_openai_org_id global_max_parallel_requests health_check_concurrency health_check_details
    health_check_ignore_transient_errors health_check_interval
    health_check_skip_disabled_background_models health_check_staleness_threshold
    hide_default_credentials_hint include_call_id_in_error_body infer_model_from_keys
    key_management_settings key_management_system litellm_jwtauth litellm_key_header_name
    litellm_license master_key max_batch_file_records max_batch_file_size_mb
    max_batch_file_uploads_per_day max_failed_login_attempts_per_source
    max_failed_login_attempts_per_source_overrides max_file_downloads_per_minute max_file_size_mb
    max_in_flight_requests_per_worker max_parallel_requests max_queued_requests_per_worker
    max_request_size_mb max_response_size_mb maximum_autorouter_session_retention_period
    maximum_daily_tag_spend_retention_period maximum_health_check_retention_period
    maximum_spend_logs_cleanup_batch_size maximum_spend_logs_cleanup_batch_timeout
    maximum_spend_logs_cleanup_cron maximum_spend_logs_cleanup_max_batches
    maximum_spend_logs_cleanup_run_budget maximum_spend_logs_retention_interval
    maximum_spend_logs_retention_period mcp_advertised_versions mcp_allowed_clients mcp_client_id_header
    mcp_client_side_auth_header_name mcp_disabled_capabilities mcp_internal_ip_ranges
    mcp_prefer_client_id_metadata_document mcp_require_explicit_server_scope mcp_required_fields
    mcp_session_token_signing mcp_trusted_proxy_ranges mcp_xff_num_trusted_hops missing_session_id
    model_list_healthy_only ms_teams oauth2_config_mappings otel pass_through_endpoints
    pass_through_request_timeout passthrough_managed_object_ids password_policy_check_breached_passwords
    password_policy_min_length password_policy_require_lowercase password_policy_require_numbers
    password_policy_require_special_characters password_policy_require_uppercase plugins
    provider_url_destination_allowed_hosts proxy_batch_polling_interval proxy_batch_write_at
    proxy_budget_rescheduler_max_time proxy_budget_rescheduler_min_time
    proxy_config_reload_interval_seconds public_routes reject_clientside_metadata_tags
    require_end_user_mcp_access_defined require_key_mcp_access_defined
    responses_websocket_session_limit_seconds role_permissions scheduled_job_stagger
    search_tool_deny_by_default search_tools service_account_settings
    skip_batch_input_file_rate_limiting_for_models skip_batch_input_file_rate_limiting_for_providers
    slack spend_capture_rate_check spend_logs_metadata_fields spend_report_frequency store_model_in_db
    store_prompts_in_spend_logs supported_db_objects team_metadata_schema
    team_metadata_validation_error_message team_metadata_validation_timeout token_rate_limit_type
    tracing track_unmanaged_batch_cost transcribe_media_buckets trusted_proxy_ranges ui_access_mode
    use_azure_key_vault use_google_kms use_redis_transaction_buffer use_shared_health_check
    use_spend_logs_partitioning use_team_public_model_name use_x_forwarded_for
    user_api_key_cache_max_size user_api_key_cache_ttl user_header_mappings user_header_name
    user_mcp_management_mode user_url_allowed_hosts user_url_validation vector_store_deny_by_default
""")

LITELLM_SETTINGS = _words("""
    aclient_session adapters add_function_to_prompt add_user_information_to_llm_headers
    agent_search_embedding_model ai21_key aiohttp_trust_env aleph_alpha_key
    allow_dynamic_callback_disabling allowed_fails amazon_nova_api_key annotations
    anthropic_batches_instance anthropic_beta_headers_url anthropic_chat_completions anthropic_key
    anthropic_prompt_caching_ttl anthropic_sse_ping_interval_seconds api_base api_key api_version
    apply_search_free_tier argilla_batch_size argilla_transformation_object audit_log_callbacks
    autorouter_presets_url aws_sqs_callback_params azure_ai_embedding azure_anthropic_chat_completions
    azure_assistants_api azure_audio_transcriptions azure_batches_instance azure_chat_completions
    azure_content_safety_params azure_files_instance azure_fine_tuning_apis_instance azure_key
    azure_o1_chat_completions azure_text_completions banned_keywords_list base_llm_aiohttp_handler
    base_llm_http_handler baseten_key batch_line_item_callbacks bedrock_converse_chat_completion
    bedrock_embedding bedrock_files_instance bedrock_image_edit bedrock_image_generation
    bedrock_neutralize_orphaned_tool_blocks bedrock_request_metadata_fields bedrock_rerank
    bfl_image_edit bfl_image_generation block_requests_for_models_without_pricing blocked_user_list
    blog_posts_url budget_duration budget_exceeded_status_code budget_exceeded_throttle_percentage
    budget_reset_time budget_rollover bytez_key bytez_transformation cache cache_params
    callback_settings callbacks check_provider_endpoint clarifai_key client_session cloudflare_api_key
    code_interpreter_interception_params codestral_text_completions cohere_key
    cold_storage_custom_logger cometapi_key common_cloud_provider_auth_params
    compression_interception_params config_path content_policy_fallbacks context_window_fallbacks
    cost_discount_config cost_margin_config credential_list custom_prometheus_metadata_labels
    custom_prometheus_tags custom_prompt_dict custom_provider_map databricks_embedding databricks_key
    datadog_llm_observability_params datadog_params datadog_use_v1 datarobot_key default_fallbacks
    default_in_memory_ttl default_internal_user_params default_key_generate_params
    default_key_max_budget_alert_emails default_max_internal_user_budget
    default_redis_batch_cache_expiry default_redis_ttl default_soft_budget default_team_params
    default_team_settings disable_add_prefix_to_prompt disable_add_transform_inline_image_block
    disable_add_user_agent_to_request_tags disable_aiohttp_transport disable_aiohttp_trust_env
    disable_anthropic_gemini_context_caching_transform disable_copilot_system_to_assistant
    disable_end_user_cost_tracking disable_end_user_cost_tracking_prometheus_only
    disable_hf_tokenizer_download disable_stop_sequence_limit disable_streaming_logging
    disable_token_counter disable_vertex_batch_output_transformation drop_params dynamodb_table_name
    email enable_anthropic_prompt_caching enable_azure_ad_token_refresh
    enable_caching_on_provider_specific_optional_params enable_end_user_cost_tracking_prometheus_only
    enable_gemini_default_thinking_level_low enable_json_schema_validation
    enable_key_alias_format_validation enable_loadbalancing_on_batch_endpoints
    enable_model_config_credential_overrides enable_preview_features enable_redis_auth_cache error_logs
    expose_router_debug_in_errors extra_spend_tag_headers failure_callback fallbacks
    filter_invalid_headers force_ipv4 force_redis_hash_tag_grouping forward_traceparent_to_llm_provider
    gcs_pub_sub_use_v1 gdc_api_base gdc_key gdc_transformation gemini_include_thoughts_default
    gemini_live_defer_setup generic_api_use_v1 generic_logger_headers gigachat_key
    global_bitbucket_config global_disable_no_log_param global_gitlab_config global_prompt_directory
    google_batch_embeddings google_moderation_confidence_threshold gradient_ai_api_key
    groq_chat_completions groq_key guardrail_name_config_map guardrails headers heroku_key
    heroku_transformation http2 huggingface_embed huggingface_key in_memory_llm_clients_cache
    inception_key include_cost_in_streaming_usage infinity_key initialized_langfuse_clients
    input_callback internal_user_budget_duration json_logs key_alias_pattern key_generation_settings
    known_tokenizer_config langfuse_default_tags langfuse_enable_update_trace_keys langsmith_batch_size
    lemonade_key lemonade_transformation litellm_mode llama_api_key llamaguard_model_name
    llamaguard_unsafe_content_categories llm_guard_mode llm_http_handler log_auth_failure_key_identity
    log_client_error_tracebacks log_level log_raw_request_response logged_real_time_event_types logging
    longer_context_model_fallback_dict maritalk_key max_budget max_end_user_budget
    max_end_user_budget_id max_fallbacks max_internal_user_budget max_tokens max_ui_session_budget
    max_user_budget mcp_aliases mcp_semantic_tool_filter mcp_tool_search model_alias_map model_cost
    model_cost_map_url model_fallbacks model_group_settings model_list model_list_set models_by_provider
    modify_params nebius_key network_mock newrelic_params nlp_cloud_key novita_api_key num_retries
    num_retries_per_request nvidia_riva_audio_transcriptions oci_transformation ollama_key
    openai_assistants_api openai_audio_transcriptions openai_batches_instance openai_chat_completions
    openai_compatible_endpoints openai_compatible_providers openai_files_instance
    openai_fine_tuning_apis_instance openai_image_variations openai_key openai_like_chat_completion
    openai_like_embedding openai_like_key openai_moderations_model_name openai_system_messages_first
    openai_text_completion_compatible_providers openai_text_completions openrouter_key organization
    otel_tenant_destination_mode output_parse_pii overwrite_user_with_key_hash ovhcloud_key
    ovhcloud_transformation personal_key_model_access_from_teams pointfive_params post_call_rules
    pre_call_rules predibase_chat_completions predibase_key predibase_tenant_id
    presidio_ad_hoc_recognizers presidio_logging_only priority_reservation priority_reservation_settings
    project prometheus_deployment_and_latency_caller_identity
    prometheus_emit_input_sequence_length_label prometheus_emit_rate_limit_labels
    prometheus_emit_stream_label prometheus_end_user_metrics_cleanup_interval_seconds
    prometheus_end_user_metrics_max_series_per_metric prometheus_end_user_metrics_ttl_seconds
    prometheus_exclude_labels prometheus_exclude_metrics prometheus_initialize_budget_metrics
    prometheus_latency_buckets prometheus_metrics_cleanup_interval_seconds prometheus_metrics_config
    prometheus_metrics_max_series_per_metric prometheus_metrics_ttl_seconds
    prometheus_user_budget_label_include_email_alias prompt_injection_params prompt_name_config_map
    provider_url_destination_allowed_hosts proxy_auth public_agent_groups
    public_mcp_hub_strict_whitelist public_mcp_servers public_model_groups public_model_groups_links
    public_skills_index reasoning_auto_summary redact_messages_in_exceptions redact_user_api_key_info
    replicate_key request_correlation_in_logs request_timeout request_timeout_explicitly_set
    require_auth_for_metrics_endpoint require_managed_files responses retry return_response_headers
    route_all_chat_openai_to_responses s3_audit_callback_params s3_callback_params safe_memory_mode
    sagemaker_chat_completion sagemaker_llm sap_gen_ai_hub_chat_completions sap_gen_ai_hub_emb
    sap_service_key scim_admin_group scim_upsert_user secret_manager_client service_callback set_verbose
    skill_search_embedding_model skip_system_message_in_guardrail skip_tool_message_in_guardrail
    snowflake_key sse_keepalive_ping_interval_seconds ssl_certificate ssl_ecdh_curve ssl_security_level
    ssl_verify standard_logging_payload_excluded_fields store_audit_logs strip_anthropic_total_tokens
    success_callback suppress_debug_info tag_budget_config together_rerank togetherai_api_key token
    tracer turn_off_message_logging upperbound_key_generate_params use_aiohttp_transport
    use_chat_completions_url_for_anthropic_messages use_client use_litellm_proxy user_url_allowed_hosts
    user_url_validation validate_end_user_id_in_db vector_store_index_registry vector_store_registry
    vector_store_search_failure_mode verbose_logger vercel_ai_gateway_key vertex_ai_batches_instance
    vertex_ai_files_instance vertex_ai_safety_settings vertex_chat_completion vertex_embedding
    vertex_fine_tuning_apis_instance vertex_gemma_chat_completion vertex_image_generation
    vertex_location vertex_model_garden_chat_completion vertex_multimodal_embedding
    vertex_partner_models_chat_completion vertex_project wandb_key watsonx_chat_completion
    websearch_interception_params xai_batch_results_instance xai_batches_instance xai_key zerobus_params
""")

# What else a row of model_list may have; beyond these a row keeps a key, and nobody asks for it.
MODEL_ROW = frozenset({"model_name", "litellm_params", "model_info", "blocked"})

_QUEUE = (
    "LiteLLM has no queue; what waits for a model waits in Ollama, which bounds it by OLLAMA_MAX_QUEUE in "
    "its environment"
)
_PARALLEL = (
    "the limit of each model is default_max_parallel_requests under router_settings, or "
    "max_parallel_requests under a model's litellm_params"
)
# What people write, since it was read once or sounds right, and what to write instead.
MISTAKEN = {
    "max_queue_size": _QUEUE,
    "max_queue": _QUEUE,
    "queue_size": _QUEUE,
    "max_parallel_requests": _PARALLEL,
    "cooldown": "write cooldown_time under router_settings",
    "retries": "write num_retries under router_settings",
    "request_timeout": "write timeout under router_settings, or request_timeout under litellm_settings",
    "allowed_fails": "it is read under router_settings, and under a model's model_info",
}
